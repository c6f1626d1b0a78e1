#pragma once
/// One question to the running process of this host, for commands and tools.
///
///   auto reply = control_call("/run/calico-node", "GET", "/felix/endpoints");
///   if (!reply) …                    // unavailable: nothing runs there
///   if (reply->status != 200) …      // reply->json holds {"error": …}
#include <chrono>
#include <functional>
#include <string>

#include "core/base/error.hpp"
#include "core/module/context.hpp"

namespace calico::module {

/// Blocks, at most `timeout`. Thread: any. Errors: unavailable (no process, or not our user), timeout.
[[nodiscard]] Result<ControlReply> control_call(const std::string& run_dir, const std::string& method,
                                                const std::string& target, std::string body = {},
                                                std::chrono::seconds timeout = std::chrono::seconds(10));

/// Lines of a stream, one call of `on_line` each, until it says false, the process ends or the connection breaks.
/// Blocks. Thread: any. Errors: unavailable (no process, or it went), and what the process refused with.
[[nodiscard]] Status control_lines(const std::string& run_dir, const std::string& target,
                                   const std::function<bool(const std::string&)>& on_line);

}  // namespace calico::module
