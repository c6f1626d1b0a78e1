#pragma once
/// One request on a connection of its own, to its end: for commands, which have no loop.
///
///   auto answer = http::ask(options, request);
///   if (answer && answer->status == 200) …
///
/// Blocks, at most the request's timeout. Thread: any. Owns: nothing after it returned. Errors: as Client::request();
/// internal when the request was lost.
#include "core/http/client.hpp"

namespace calico::http {

[[nodiscard]] Result<Answer> ask(ClientOptions options, ClientRequest request);

}  // namespace calico::http
