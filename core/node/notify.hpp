#pragma once
/// sd_notify(3)'s protocol without libsystemd: one datagram to $NOTIFY_SOCKET.
#include <string_view>

namespace calico::node {

/// "READY=1", "STATUS=…", "STOPPING=1", lines joined by '\n'. Does nothing without NOTIFY_SOCKET; never fails loudly: a
/// supervisor that does not listen must not stop the service. Thread: any.
void notify(std::string_view state);

}  // namespace calico::node
