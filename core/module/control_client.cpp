#include "core/module/control_client.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <optional>

#include "core/http/client.hpp"

namespace calico::module {

Result<ControlReply> control_call(const std::string& run_dir, const std::string& method, const std::string& target,
                                  std::string body, std::chrono::seconds timeout) {
  boost::asio::io_context io(1);
  http::ClientOptions options;
  http::Endpoint at;
  at.unix_path = run_dir + "/control.ctl";
  options.endpoints.push_back(at);
  auto client = http::Client::create(io.get_executor(), options);
  if (!client) return tl::unexpected(client.error());
  http::ClientRequest request;
  request.method = method;
  request.target = target;
  request.body = std::move(body);
  request.timeout = timeout;
  std::optional<Result<http::Answer>> answer;
  std::exception_ptr thrown;
  boost::asio::co_spawn(
      io,
      [&]() -> http::awaitable<void> {
        answer = co_await (*client)->request(request);
        (*client)->close();
      },
      [&](std::exception_ptr e) { thrown = e; });
  io.run();
  if (thrown || !answer) return fail(Errc::internal, "{}: the request was lost", at.to_string());
  if (!*answer)
    return fail(answer->error().code, "no calico-node answers at {}: {}", at.unix_path, answer->error().what);
  return ControlReply{static_cast<int>((*answer)->status), std::move((*answer)->body)};
}

}  // namespace calico::module
