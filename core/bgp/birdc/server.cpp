#include "core/bgp/birdc/server.hpp"

#include <fmt/format.h>
#include <malloc.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <fstream>

#include "core/bgp/birdc/format.hpp"
#include "core/bgp/birdc/operations.hpp"
#include "core/loop/task_group.hpp"
#include "core/netlink/rtnl.hpp"

namespace calico::bgp {

using asio::local::stream_protocol;

namespace {
constexpr std::size_t kMaxClients = 32, kMaxLine = 1024, kPage = 500;
constexpr std::chrono::seconds kWriteTimeout{60}, kConfigureTimeout{30};
constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

birdc::MemoryUse memory_use() {
  const auto m = ::mallinfo2();
  birdc::MemoryUse use;
  use.in_use = m.uordblks + m.hblkhd;
  use.free = m.fordblks;
  std::ifstream in("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  if (in >> all >> resident) use.resident = resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return use;
}

/// Interfaces of this host's own routes, asked one by one; without a socket nobody knows.
class Devices {
 public:
  std::string operator()(const Prefix& prefix) {
    if (!opened_) nl_ = netlink::Rtnl::open();
    opened_ = true;
    if (!nl_) return "";
    netlink::LookupOptions options;
    options.fib_match = true;
    const auto route = nl_->lookup(prefix.addr, options);
    std::array<char, IF_NAMESIZE> name{};
    if (!route || route->nexthops.empty() || if_indextoname(route->nexthops.front().dev.value, name.data()) == nullptr)
      return "";
    return name.data();
  }

 private:
  bool opened_ = false;
  Result<netlink::Rtnl> nl_ = fail(Errc::unavailable, "not opened");
};
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
      if (struct stat st{}; ::lstat(options_.path.c_str(), &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
          return fail(Errc::exists, "birdc socket {}: there is something that is no socket; remove it", options_.path);
        if (ec == asio::error::connection_refused) ::unlink(options_.path.c_str());
      }
    }
    ec = {};
    acceptor_.open(at.protocol(), ec);
    if (ec) return bad("socket");
    const auto mask = ::umask(0117);
    acceptor_.bind(at, ec);
    ::umask(mask);
    if (ec) return bad("bind");
    bound_ = true;
    if (struct stat st{}; ::lstat(options_.path.c_str(), &st) == 0) inode_ = st.st_ino;
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
    // A BIRD that was started meanwhile has put its own in the place of ours.
    if (struct stat st{};
        std::exchange(bound_, false) && ::lstat(options_.path.c_str(), &st) == 0 && st.st_ino == inode_)
      ::unlink(options_.path.c_str());
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
    auto hello = birdc::greeting(options_.shape);
    if (!co_await write(client, hello)) co_return;
    std::string input;
    auto restricted = std::make_shared<bool>(false);
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
      const bool well = co_await answer(client, std::move(line), restricted);
      if (!well) co_return;
    }
  }

  awaitable<bool> answer(std::shared_ptr<stream_protocol::socket> client, std::string line,
                         std::shared_ptr<bool> restricted) {
    birdc::Reply out;
    auto command = birdc::parse(line, options_.shape);
    if (*restricted && !birdc::allowed_when_restricted(command)) command = birdc::Refused{8007, "Access denied"};
    if (auto* route = std::get_if<birdc::ShowRoute>(&command)) {
      auto query = *route;
      const bool well = co_await show_route(client, std::move(query));
      co_return well;
    }
    if (auto* o = std::get_if<birdc::Operate>(&command)) {
      auto operation = std::move(*o);
      const bool well = co_await operate(client, std::move(operation));
      co_return well;
    }
    if (auto* c = std::get_if<birdc::ConfigureCommand>(&command)) {
      const bool check = c->check;
      const bool well = co_await configure(client, check);
      co_return well;
    }
    if (std::holds_alternative<birdc::Restrict>(command)) {
      *restricted = true;
      out.end(16, "Access restricted");
    } else {
      at_once(out, command);
    }
    auto text = out.take();
    const bool well = co_await write(client, std::move(text));
    co_return well;
  }

  void at_once(birdc::Reply& out, const birdc::Command& command) {
    const auto& shape = options_.shape;
    if (std::holds_alternative<birdc::ShowStatus>(command)) {
      birdc::status(out, shape, engine_->status(), std::chrono::system_clock::now());
    } else if (const auto* p = std::get_if<birdc::ShowProtocols>(&command)) {
      birdc::protocols(out, shape, *p, engine_->peers(), engine_->status(), options_.kernel);
    } else if (const auto* i = std::get_if<birdc::ShowInterfaces>(&command)) {
      auto nl = netlink::Rtnl::open();
      if (!nl) return out.end(9001, nl.error().what);
      auto links = nl->links();
      auto addresses = nl->addresses();
      if (!links || !addresses) return out.end(9001, (links ? addresses.error() : links.error()).what);
      birdc::interfaces(out, shape, *i, *links, *addresses);
    } else if (std::holds_alternative<birdc::ShowMemory>(command)) {
      birdc::memory(out, shape, memory_use());
    } else if (const auto* s = std::get_if<birdc::ShowSymbols>(&command)) {
      birdc::symbols(out, shape, *s, engine_->peers(), options_.kernel);
    } else if (const auto* d = std::get_if<birdc::Drain>(&command)) {
      birdc::drain(out, *engine_, *d);
    } else if (const auto* r = std::get_if<birdc::Refused>(&command)) {
      out.end(r->code, r->why);
    }
  }

  awaitable<bool> operate(std::shared_ptr<stream_protocol::socket> client, birdc::Operate command) {
    birdc::Reply out;
    const auto peers = birdc::operands(out, options_.shape, *engine_, command, options_.kernel);
    if (peers) {
      for (const auto& peer : *peers) {
        birdc::operate(out, *engine_, command, peer);
        (void)co_await sleep_for(std::chrono::nanoseconds(0));
        if (engine_ == nullptr) co_return false;
      }
      out.end(0);
    }
    auto text = out.take();
    const bool well = co_await write(client, std::move(text));
    co_return well;
  }

  awaitable<bool> configure(std::shared_ptr<stream_protocol::socket> client, bool check) {
    birdc::Reply out;
    if (!options_.configure) {
      out.end(9001, "this speaker has no configuration to read again");
    } else {
      // The answer comes from another thread, late, or never; whoever is late finds nobody.
      struct Wait {
        asio::steady_timer timer;
        std::optional<ConfigureAnswer> answer;
      };
      auto wait = std::make_shared<Wait>(Wait{asio::steady_timer(loop_.executor(), kConfigureTimeout), {}});
      options_.configure(check, [executor = loop_.executor(), weak = std::weak_ptr(wait)](ConfigureAnswer answer) {
        asio::post(executor, [weak, answer = std::move(answer)]() mutable {
          if (auto w = weak.lock()) {
            w->answer = std::move(answer);
            w->timer.cancel();
          }
        });
      });
      if (!wait->answer) (void)co_await wait->timer.async_wait(kToken);
      if (engine_ == nullptr) co_return false;
      if (wait->answer)
        birdc::configured(out, *wait->answer, check);
      else
        out.end(8002, fmt::format("no answer within {} s; the log says more", kConfigureTimeout.count()));
    }
    auto text = out.take();
    const bool well = co_await write(client, std::move(text));
    co_return well;
  }

  /// Why the list cannot be made.
  std::optional<birdc::Refused> refusal(const RouteQuery& query) const {
    const bool old = options_.shape.bird1();
    const auto peers = engine_->peers();
    for (const auto* name : {&query.peer, &query.exported_to}) {
      if (!*name || (name == &query.peer && (*name)->empty())) continue;
      const PeerStatus* found = nullptr;
      for (const auto& p : peers)
        if (p.config.name == **name && birdc::shown(options_.shape, p)) found = &p;
      if (found == nullptr) return birdc::Refused{9001, fmt::format("{} is not a protocol", (*name)->substr(0, 64))};
      if (name == &query.exported_to && found->state != PeerState::established)
        return old ? birdc::Refused{8005, "Protocol is down"} : birdc::Refused{9001, "No valid tables"};
    }
    return std::nullopt;
  }

  awaitable<bool> show_route(std::shared_ptr<stream_protocol::socket> client, birdc::ShowRoute command) {
    birdc::Reply out;
    if (const auto refused = refusal(command.query)) {
      out.end(refused->code, refused->why);
      auto text = out.take();
      const bool well = co_await write(client, std::move(text));
      co_return well;
    }
    const bool old = options_.shape.bird1();
    if (command.query.exact) command.query.family = command.query.exact->family();
    if (command.query.covering) command.query.family = command.query.covering->family();
    std::size_t total_shown = 0, total_networks = 0, tables = 0;
    birdc::RouteLines lines;
    lines.shape = options_.shape;
    lines.device = [devices = std::make_shared<Devices>()](const Prefix& p) { return (*devices)(p); };
    for (auto family : {Family::v4, Family::v6}) {
      if (command.query.family && *command.query.family != family) continue;
      auto query = command.query;
      query.family = family;
      std::size_t shown = 0, networks = 0;
      std::optional<Prefix> last;
      std::optional<std::uint32_t> next;
      if (!command.filtered) next = 0;
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
      if ((command.count || command.stats) && !old) {
        const auto status = engine_->status();
        out.line(1007, fmt::format("{} of {} routes for {} networks in table {}", shown,
                                   family == Family::v4 ? status.routes_v4 : status.routes_v6, networks,
                                   family == Family::v4 ? "master4" : "master6"));
      }
    }
    if (command.count || command.stats) {
      const auto status = engine_->status();
      std::size_t all = 0;
      if (!command.query.family || *command.query.family == Family::v4) all += status.routes_v4;
      if (!command.query.family || *command.query.family == Family::v6) all += status.routes_v6;
      const auto counts = fmt::format("{} of {} routes for {} networks", total_shown, all, total_networks);
      out.end(14, old ? counts : fmt::format("Total: {} in {} tables", counts, tables));
    } else if (total_shown == 0 && (command.query.exact || command.query.covering)) {
      out.end(8001, old ? "Network not in table" : "Network not found");
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
  ino_t inode_ = 0;
};

BirdcServer::BirdcServer(Loop& loop, Engine& engine, Options options)
    : impl_(std::make_shared<Impl>(loop, engine, std::move(options))) {}
BirdcServer::~BirdcServer() { stop(); }
Status BirdcServer::start() { return impl_->start(); }
void BirdcServer::stop() { impl_->stop(); }

}  // namespace calico::bgp
