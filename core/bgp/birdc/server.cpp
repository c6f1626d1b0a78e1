#include "core/bgp/birdc/server.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "core/bgp/birdc/format.hpp"
#include "core/loop/task_group.hpp"

namespace calico::bgp {

using asio::local::stream_protocol;

namespace {
constexpr std::size_t kMaxClients = 32, kMaxLine = 1024, kPage = 500;
constexpr std::chrono::seconds kWriteTimeout{60};
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
}  // namespace

class BirdcServer::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(Loop& loop, Engine& engine, Options options)
      : loop_(loop),
        engine_(&engine),
        options_(std::move(options)),
        acceptor_(loop.executor()),
        tasks_(loop.executor(), "birdc") {}

  Status start() {
    boost::system::error_code ec;
    const auto bad = [&](std::string_view what) {
      return fail(errc_of_errno(ec.value()), "birdc socket {}: {}: {}", options_.path, what, ec.message());
    };
    if (options_.path.size() >= sizeof(sockaddr_un::sun_path))
      return fail(Errc::invalid, "birdc socket {}: the path is longer than {} characters", options_.path,
                  sizeof(sockaddr_un::sun_path) - 1);
    const stream_protocol::endpoint at(options_.path);
    {
      // Somebody else's living socket is not ours to take; a file without a server is.
      stream_protocol::socket probe(loop_.executor());
      probe.connect(at, ec);
      if (!ec) return fail(Errc::exists, "birdc socket {}: another server answers there", options_.path);
      if (ec == asio::error::connection_refused) ::unlink(options_.path.c_str());
    }
    ec = {};
    acceptor_.open(at.protocol(), ec);
    if (ec) return bad("socket");
    const auto mask = ::umask(0117);
    acceptor_.bind(at, ec);
    ::umask(mask);
    if (ec) return bad("bind");
    bound_ = true;
    acceptor_.listen(16, ec);
    if (ec) return bad("listen");
    tasks_.spawn("accept", [self = shared_from_this()] { return self->accept(); });
    return {};
  }

  void stop() {
    engine_ = nullptr;
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    tasks_.cancel();
    if (std::exchange(bound_, false)) ::unlink(options_.path.c_str());
  }

 private:
  awaitable<void> accept() {
    while (engine_ != nullptr) {
      auto [ec, socket] = co_await acceptor_.async_accept(kToken);
      if (engine_ == nullptr) break;
      if (ec) {
        // Out of descriptors passes; do not spin on it.
        if (!co_await sleep_for(std::chrono::milliseconds(100))) break;
        continue;
      }
      auto client = std::make_shared<stream_protocol::socket>(std::move(socket));
      if (clients_ >= kMaxClients) {
        boost::system::error_code ignored;
        client->non_blocking(true, ignored);
        client->write_some(asio::buffer(std::string_view("9001 Too many clients\n")), ignored);
        continue;
      }
      ++clients_;
      tasks_.spawn("client", [self = shared_from_this(), client] { return self->serve(client); });
    }
  }

  /// False: the client does not take it in time, or is gone.
  awaitable<bool> write(std::shared_ptr<stream_protocol::socket> client, std::string text) {
    asio::steady_timer deadline(client->get_executor(), kWriteTimeout);
    deadline.async_wait([client](const boost::system::error_code& ec) {
      boost::system::error_code ignored;
      if (!ec) client->close(ignored);
    });
    auto [ec, n] = co_await asio::async_write(*client, asio::buffer(text), kToken);
    co_return !ec;
  }

  awaitable<void> serve(std::shared_ptr<stream_protocol::socket> client) {
    struct Count {
      Impl& impl;
      ~Count() { --impl.clients_; }
    } count{*this};
    auto hello = birdc::greeting();
    if (!co_await write(client, hello)) co_return;
    std::string input;
    while (engine_ != nullptr) {
      auto [ec, n] = co_await asio::async_read_until(*client, asio::dynamic_buffer(input, kMaxLine), '\n', kToken);
      if (engine_ == nullptr) co_return;
      if (ec == asio::error::not_found) {
        std::string refusal = "9001 Line too long\n";
        (void)co_await write(client, refusal);
        co_return;
      }
      if (ec) co_return;
      std::string line = input.substr(0, n - 1);
      input.erase(0, n);
      const bool well = co_await answer(client, std::move(line));
      if (!well) co_return;
    }
  }

  awaitable<bool> answer(std::shared_ptr<stream_protocol::socket> client, std::string line) {
    birdc::Reply out;
    auto command = birdc::parse(line);
    if (auto* route = std::get_if<birdc::ShowRoute>(&command)) {
      auto query = *route;
      const bool well = co_await show_route(client, std::move(query));
      co_return well;
    }
    if (std::holds_alternative<birdc::ShowStatus>(command))
      birdc::status(out, engine_->status(), std::chrono::system_clock::now());
    else if (auto* p = std::get_if<birdc::ShowProtocols>(&command))
      birdc::protocols(out, *p, engine_->peers(), engine_->status(), options_.kernel);
    else if (std::holds_alternative<birdc::Restrict>(command))
      out.end(16, "Access restricted");
    else
      out.end(9001, std::get<birdc::Bad>(command).why);
    auto text = out.take();
    const bool well = co_await write(client, std::move(text));
    co_return well;
  }

  awaitable<bool> show_route(std::shared_ptr<stream_protocol::socket> client, birdc::ShowRoute command) {
    birdc::Reply out;
    if (command.query.peer && !command.query.peer->empty()) {
      bool known = false;
      for (const auto& p : engine_->peers()) known |= p.config.name == *command.query.peer;
      if (!known) {
        out.end(9001, fmt::format("{} is not a protocol", command.query.peer->substr(0, 64)));
        auto text = out.take();
        const bool well = co_await write(client, std::move(text));
        co_return well;
      }
    }
    if (command.query.exact) command.query.family = command.query.exact->family();
    if (command.query.covering) command.query.family = command.query.covering->family();
    std::size_t total_shown = 0, total_networks = 0, tables = 0;
    birdc::RouteLines lines;
    for (auto family : {Family::v4, Family::v6}) {
      if (command.query.family && *command.query.family != family) continue;
      auto query = command.query;
      query.family = family;
      std::size_t shown = 0, networks = 0;
      std::optional<Prefix> last;
      std::optional<std::uint32_t> next = 0;
      while (next) {
        auto page = engine_->route_page(query, *next, kPage);
        next = page.next;
        shown += page.routes.size();
        for (const auto& r : page.routes) {
          if (last != r.prefix) ++networks;
          last = r.prefix;
        }
        if (!command.count) lines.add(out, page.routes);
        auto text = out.take();
        // Also without output: other work comes in between.
        if (text.empty()) {
          (void)co_await sleep_for(std::chrono::nanoseconds(0));
        } else {
          const bool well = co_await write(client, std::move(text));
          if (!well) co_return false;
        }
        if (engine_ == nullptr) co_return false;
      }
      ++tables;
      total_shown += shown;
      total_networks += networks;
      if (command.count) {
        const auto status = engine_->status();
        out.line(1007, fmt::format("{} of {} routes for {} networks in table {}", shown,
                                   family == Family::v4 ? status.routes_v4 : status.routes_v6, networks,
                                   family == Family::v4 ? "master4" : "master6"));
      }
    }
    if (command.count) {
      const auto status = engine_->status();
      std::size_t all = 0;
      if (!command.query.family || *command.query.family == Family::v4) all += status.routes_v4;
      if (!command.query.family || *command.query.family == Family::v6) all += status.routes_v6;
      out.end(14, fmt::format("Total: {} of {} routes for {} networks in {} tables", total_shown, all, total_networks,
                              tables));
    } else if (total_shown == 0 && (command.query.exact || command.query.covering)) {
      out.end(8001, "Network not found");
    } else {
      out.end(0);
    }
    auto text = out.take();
    const bool well = co_await write(client, std::move(text));
    co_return well;
  }

  Loop& loop_;
  Engine* engine_;
  Options options_;
  stream_protocol::acceptor acceptor_;
  TaskGroup tasks_;
  std::size_t clients_ = 0;
  bool bound_ = false;
};

BirdcServer::BirdcServer(Loop& loop, Engine& engine, Options options)
    : impl_(std::make_shared<Impl>(loop, engine, std::move(options))) {}
BirdcServer::~BirdcServer() { stop(); }
Status BirdcServer::start() { return impl_->start(); }
void BirdcServer::stop() { impl_->stop(); }

}  // namespace calico::bgp
