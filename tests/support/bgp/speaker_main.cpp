// bgp-speaker: the BGP engine alone, for tests that put it into a namespace beside other daemons. Reads its whole life
// from the command line; prints "ready" on stdout; ends on SIGTERM (planned) or SIGINT (for good). routes_file is a
// route a line, "PREFIX[,med=N][,pref=N]", read again at SIGHUP: what is no longer there is withdrawn.
// churn=PREFIX,COUNT,MS lets that many host routes come and go, a quarter of them each MS, until SIGHUP, when they are
// gone. kernel=yes writes winners to the main table and resolves next hops in it.
//
//   bgp-speaker id=10.0.0.1 as=64512 listen=10.0.0.1 state=DIR ctl=bird.ctl nh6=fd00::1 route=10.65.0.1/32
//       peer=NAME,10.0.0.2,as=65000,client,multihop=2,import,export,self,passive,password=x,ttlsec,noimport,noexport,addpath,nh6for4,noextmsg
//       range=NAME,10.0.0.0/24,client routes=10.66.0.0/16,1000 routes_file=FILE churn=10.70.0.0/24,200,5 kernel=yes
#include <fmt/core.h>
#include <signal.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_future.hpp>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>

#include "core/bgp/birdc/client.hpp"
#include "core/bgp/birdc/server.hpp"
#include "core/bgp/engine.hpp"
#include "core/bgp/kernel.hpp"
#include "core/log/log.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

[[noreturn]] void die(std::string_view why) {
  fmt::print(stderr, "bgp-speaker: {}\n", why);
  std::exit(2);
}
template <class T>
T must(Result<T> r) {
  if (!r) die(r.error().what);
  return std::move(*r);
}
long number(std::string_view s) {
  long v = 0;
  auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (ec != std::errc{} || end != s.data() + s.size()) die(fmt::format("'{}' is not a number", s));
  return v;
}
std::vector<std::string> split(std::string_view s) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= s.size();) {
    const auto end = std::min(s.find(',', at), s.size());
    out.emplace_back(s.substr(at, end - at));
    at = end + 1;
  }
  return out;
}
void set_options(PeerOptions& o, const std::vector<std::string>& words) {
  for (std::size_t i = 2; i < words.size(); ++i) {
    const auto eq = words[i].find('=');
    const auto key = words[i].substr(0, eq), value = eq == std::string::npos ? "" : words[i].substr(eq + 1);
    if (key == "as")
      o.remote_as = Asn{static_cast<std::uint32_t>(number(value))};
    else if (key == "client")
      o.route_reflector_client = true;
    else if (key == "multihop")
      o.multihop = static_cast<int>(number(value));
    else if (key == "import")
      o.import_policy = Policy::all;
    else if (key == "export")
      o.export_policy = Policy::all;
    else if (key == "noimport")
      o.import_policy = Policy::none;
    else if (key == "noexport")
      o.export_policy = Policy::none;
    else if (key == "self")
      o.next_hop = NextHopMode::self;
    else if (key == "addpath")
      o.add_path_receive = o.add_path_send = true;
    else if (key == "nh6for4")
      o.extended_next_hop = true;
    else if (key == "noextmsg")
      o.extended_messages = false;
    else if (key == "passive")
      o.passive = true;
    else if (key == "password")
      o.password = value;
    else if (key == "ttlsec")
      o.ttl_security = true;
    else if (key == "noipv4")
      o.ipv4 = false;
    else if (key == "noipv6")
      o.ipv6 = false;
    else if (key == "hold")
      o.hold_time = std::chrono::seconds(number(value));
    else if (key == "max")
      o.max_prefix = static_cast<std::uint32_t>(number(value));
    else if (key == "source")
      o.local_address = must(Ip::parse(value));
    else
      die(fmt::format("unknown peer option '{}'", key));
  }
}

using LocalRoutes = std::map<Prefix, LocalRoute>;

LocalRoutes read_routes(const std::string& file) {
  std::ifstream in(file);
  if (!in) die("cannot read " + file);
  LocalRoutes out;
  for (std::string line; std::getline(in, line);) {
    const auto words = split(line);
    auto& route = out[must(Prefix::parse(words.at(0)))];
    for (std::size_t i = 1; i < words.size(); ++i) {
      const auto value = static_cast<std::uint32_t>(number(words[i].substr(words[i].find('=') + 1)));
      if (words[i].starts_with("med="))
        route.med = value;
      else if (words[i].starts_with("pref="))
        route.local_pref = value;
      else
        die("unknown word in " + file + ": " + words[i]);
    }
  }
  return out;
}

/// Routes that come and go: at each step a quarter of them is turned over.
class Churn {
 public:
  Churn(Engine& engine, Loop& loop, const std::string& how) : engine_(engine), timer_(loop.io()) {
    const auto w = split(how);
    if (w.size() != 3) die("churn=PREFIX,COUNT,MILLISECONDS");
    first_ = must(Prefix::parse(w[0])).addr.to_v4();
    up_.resize(static_cast<std::size_t>(number(w[1])));
    pause_ = std::chrono::milliseconds(number(w[2]));
  }
  void step() {
    if (ended_) return;
    for (std::size_t i = 0; i < up_.size() / 4; ++i) {
      set(at_, !up_[at_]);
      at_ = (at_ + 1) % up_.size();
    }
    timer_.expires_after(pause_);
    timer_.async_wait([this](const boost::system::error_code& stopped) {
      if (!stopped) step();
    });
  }
  void stop() {
    ended_ = true;
    timer_.cancel();
  }
  void withdraw() {
    stop();
    for (std::size_t i = 0; i < up_.size(); ++i) set(i, false);
  }

 private:
  void set(std::size_t i, bool up) {
    up_[i] = up;
    std::optional<LocalRoute> route;
    if (up) route.emplace();
    engine_.set_local(Prefix::host(Ip::v4(first_ + static_cast<std::uint32_t>(i))), route);
  }
  Engine& engine_;
  asio::steady_timer timer_;
  std::uint32_t first_ = 0;
  std::vector<bool> up_;
  std::size_t at_ = 0;
  bool ended_ = false;
  std::chrono::milliseconds pause_{};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "birdc") return birdc_main(argc - 1, argv + 1);
  log::init(log::Level::info, log::Format::text);
  Options o;
  std::vector<PeerConfig> peers;
  std::vector<RangeConfig> ranges;
  std::vector<Prefix> routes;
  std::string ctl, routes_file, churned;
  bool to_kernel = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const auto eq = arg.find('=');
    if (eq == arg.npos) die(fmt::format("'{}' is not key=value", arg));
    const auto key = arg.substr(0, eq), value = arg.substr(eq + 1);
    if (key == "id")
      o.router_id = must(Ip::parse(value));
    else if (key == "as")
      o.local_as = Asn{static_cast<std::uint32_t>(number(value))};
    else if (key == "listen") {
      o.listen.push_back({must(Ip::parse(value)), 179});
      if (o.listen.size() == 1) o.source_address = o.listen[0].address;
    } else if (key == "cluster")
      o.cluster_id = must(Ip::parse(value));
    else if (key == "nh6")
      o.next_hop_v6 = must(Ip::parse(value));
    else if (key == "nh4")
      o.next_hop_v4 = must(Ip::parse(value));
    else if (key == "state")
      o.state_dir = value;
    else if (key == "hold")
      o.hold_time = std::chrono::seconds(number(value));
    else if (key == "restart")
      o.restart_time = std::chrono::seconds(number(value));
    else if (key == "deferral")
      o.deferral = std::chrono::seconds(number(value));
    else if (key == "llgr")
      o.long_lived_stale_time = std::chrono::seconds(number(value));
    else if (key == "keep")
      o.keep_when_isolated = std::chrono::seconds(number(value));
    else if (key == "ctl")
      ctl = value;
    else if (key == "routes_file")
      routes_file = value;
    else if (key == "churn")
      churned = value;
    else if (key == "kernel")
      to_kernel = value == "yes";
    else if (key == "peer") {
      const auto w = split(value);
      if (w.size() < 2) die("peer=NAME,ADDRESS,...");
      PeerConfig p;
      p.name = w[0];
      p.address = must(Ip::parse(w[1]));
      set_options(p, w);
      peers.push_back(std::move(p));
    } else if (key == "range") {
      const auto w = split(value);
      if (w.size() < 2) die("range=NAME,PREFIX,...");
      RangeConfig r;
      r.name = w[0];
      r.prefix = must(Prefix::parse(w[1]));
      set_options(r, w);
      ranges.push_back(std::move(r));
    } else if (key == "route") {
      routes.push_back(must(Prefix::parse(value)));
    } else if (key == "routes") {  // so many host routes from the start of a block
      const auto w = split(value);
      if (w.size() != 2) die("routes=PREFIX,COUNT");
      const auto from = must(Prefix::parse(w[0])).addr.to_v4();
      for (long n = 0; n < number(w[1]); ++n)
        routes.push_back(Prefix::host(Ip::v4(from + static_cast<std::uint32_t>(n))));
    } else {
      die(fmt::format("unknown key '{}'", key));
    }
  }
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGTERM);
  sigaddset(&wanted, SIGINT);
  sigaddset(&wanted, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &wanted, nullptr);
  signal(SIGPIPE, SIG_IGN);

  Loop loop("bgp");
  loop.start();
  auto engine = std::make_unique<Engine>(loop, o);
  engine->set_event_sink([](const PeerEvent& e) {
    log::info("bgp.event", "kind", static_cast<int>(e.kind), "peer", e.peer, "text", e.text);
  });
  std::unique_ptr<KernelBgp> kernel;
  if (to_kernel) {
    KernelOptions options;
    options.import_interfaces.clear();
    options.import_protocols.clear();
    kernel = must(KernelBgp::open(loop, options));
    engine->set_fib_sink(kernel.get());
    engine->set_next_hop_resolver(kernel.get());
  }
  LocalRoutes from_file;
  const auto take_file = [&](LocalRoutes now) {
    for (const auto& [prefix, route] : from_file)
      if (!now.contains(prefix)) engine->set_local(prefix, std::nullopt);
    for (const auto& [prefix, route] : now) engine->set_local(prefix, route);
    from_file = std::move(now);
  };
  std::optional<Churn> churn;
  std::unique_ptr<BirdcServer> birdc;
  const auto ok = loop.call([&]() -> Status {
    if (auto s = engine->start(); !s) return s;
    for (const auto& r : routes) engine->set_local(r, LocalRoute{});
    if (!routes_file.empty()) take_file(read_routes(routes_file));
    if (!churned.empty()) churn.emplace(*engine, loop, churned).step();
    if (kernel)
      kernel->start(hooks_of(*engine, [](std::string_view what) { log::warn("bgp.kernel", "what", what); }));
    else
      engine->local_complete();
    if (auto s = engine->set_peers(peers, ranges); !s) return s;
    if (ctl.empty()) return {};
    birdc = std::make_unique<BirdcServer>(loop, *engine, BirdcServer::Options{ctl, true, {}, {}});
    return birdc->start();
  });
  if (!ok) die(ok.error().what);
  std::cout << "ready" << std::endl;
  int sig = 0;
  while (sigwait(&wanted, &sig) == 0 && sig == SIGHUP)
    loop.call([&] {
      if (churn) churn->withdraw();
      if (!routes_file.empty()) take_file(read_routes(routes_file));
    });
  loop.call([&] {
    if (churn) churn->stop();
    birdc.reset();
    if (kernel) kernel->stop();
  });
  asio::co_spawn(
      loop.io(), [&]() -> awaitable<void> { co_await engine->stop(sig == SIGTERM); }, asio::use_future)
      .get();
  loop.call([&] { engine.reset(); });
  loop.stop();
}
