#include "core/http/ask.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <optional>

namespace calico::http {

Result<Answer> ask(ClientOptions options, ClientRequest request) {
  boost::asio::io_context io(1);
  auto client = Client::create(io.get_executor(), std::move(options));
  if (!client) return tl::unexpected(client.error());
  std::optional<Result<Answer>> answer;
  std::exception_ptr thrown;
  boost::asio::co_spawn(
      io,
      [&]() -> awaitable<void> {
        answer = co_await (*client)->request(request);
        (*client)->close();
      },
      [&](std::exception_ptr e) { thrown = e; });
  io.run();
  if (thrown || !answer) return fail(Errc::internal, "the request was lost");
  return std::move(*answer);
}

}  // namespace calico::http
