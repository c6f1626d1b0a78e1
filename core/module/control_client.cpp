#include "core/module/control_client.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "core/http/ask.hpp"

namespace calico::module {
namespace {

http::Endpoint control_socket(const std::string& run_dir) {
  http::Endpoint at;
  at.unix_path = run_dir + "/control.ctl";
  return at;
}

}  // namespace

Result<ControlReply> control_call(const std::string& run_dir, const std::string& method, const std::string& target,
                                  std::string body, std::chrono::seconds timeout) {
  http::ClientOptions options;
  options.endpoints.push_back(control_socket(run_dir));
  http::ClientRequest request;
  request.method = method;
  request.target = target;
  request.body = std::move(body);
  request.timeout = timeout;
  auto answer = http::ask(options, std::move(request));
  if (!answer)
    return fail(answer.error().code, "no calico-node answers at {}: {}", options.endpoints[0].unix_path,
                answer.error().what);
  return ControlReply{static_cast<int>(answer->status), std::move(answer->body)};
}

Status control_lines(const std::string& run_dir, const std::string& target,
                     const std::function<bool(const std::string&)>& on_line) {
  constexpr auto kPatience = std::chrono::hours(24 * 365);
  boost::asio::io_context io(1);
  http::ClientOptions options;
  const auto at = control_socket(run_dir);
  options.endpoints.push_back(at);
  auto client = http::Client::create(io.get_executor(), options);
  if (!client) return tl::unexpected(client.error());
  Status out;
  std::exception_ptr thrown;
  boost::asio::co_spawn(
      io,
      [&]() -> http::awaitable<void> {
        http::ClientRequest request;
        request.target = target;
        auto lines = co_await (*client)->open(std::move(request));
        if (!lines) {
          out = fail(lines.error().code, "no calico-node answers at {}: {}", at.unix_path, lines.error().what);
          co_return;
        }
        if ((*lines)->head().status != 200) {
          auto body = co_await (*lines)->read_all(std::chrono::seconds(10));
          out = fail(Errc::unsupported, "{}", body ? *body : body.error().what);
          co_return;
        }
        for (;;) {
          auto line = co_await (*lines)->read_line(kPatience);
          if (!line) {
            if (line.error().code != Errc::closed) out = tl::unexpected(line.error());
            break;
          }
          if (!line->empty() && !on_line(*line)) break;
        }
        (*lines)->close();
      },
      [&](std::exception_ptr e) {
        thrown = e;
        (*client)->close();
      });
  io.run();
  if (thrown) return fail(Errc::internal, "{}: the stream was lost", at.to_string());
  return out;
}

}  // namespace calico::module
