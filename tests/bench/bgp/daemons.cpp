#include "tests/bench/bgp/daemons.hpp"

#include <fmt/core.h>
#include <sched.h>
#include <time.h>

#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

namespace calico::bench {
namespace {

namespace fs = std::filesystem;

struct Place {
  fs::path dir;
  const Workload& workload;
  const DaemonOptions& options;
};

void write(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

std::string ours(const Place& p) {
  fs::create_directories(p.dir / "state");
  return fmt::format("{} id=10.66.0.1 as=64512 listen=10.66.0.1 nh6=fd00:66::1 state={} range=c,10.66.0.0/16,client",
                     p.options.speaker, (p.dir / "state").string());
}

// The whole role: kernel's side, birdc's sockets, local store. The range is insecure on purpose, as the others' are.
std::string node(const Place& p) {
  const auto dir = p.dir.string();
  write(p.dir / "node.conf", fmt::format("[node]\nname = rr\nstate_dir = {0}/state\nrun_dir = {0}/run\nfelix_cfg =\n"
                                         "[datastore]\nendpoints = http://127.0.0.1:2379\ninsecure = yes\n"
                                         "[bgp]\nrouter_id = 10.66.0.1\nsource_address = 10.66.0.1\n"
                                         "kernel_export = no\npeers_from_datastore = no\n"
                                         "[bgp.range.c]\nprefix = 10.66.0.0/16\nremote_as = 64512\n"
                                         "insecure = yes\nroute_reflector_client = yes\n",
                                         dir));
  return fmt::format("{} role route-reflector --config {}/node.conf", p.options.node, dir);
}

std::string bird2(const Place& p) {
  const auto* channel = p.workload.ipv6() ? "ipv6 { import all; export where source = RTS_BGP; next hop keep; };"
                                          : "ipv4 { import all; export where source = RTS_BGP; };";
  write(p.dir / "bird.conf", fmt::format("log stderr {{ warning, error, fatal, bug }};\n"
                                         "router id 10.66.0.1;\nprotocol device {{}}\n"
                                         "protocol direct {{ ipv4; ipv6; interface \"v0\"; }}\n"
                                         "protocol bgp c {{\n  local 10.66.0.1 as 64512;\n"
                                         "  neighbor range 10.66.0.0/16 as 64512;\n  rr client;\n"
                                         "  graceful restart on;\n  {}\n}}\n",
                                         channel));
  return fmt::format("/usr/sbin/bird -f -c {0}/bird.conf -s {0}/bird.ctl", p.dir.string());
}

std::string frr(const Place& p) {
  const auto family = p.workload.ipv6() ? "ipv6" : "ipv4";
  write(p.dir / "bgpd.conf", fmt::format("hostname rr\nrouter bgp 64512\n bgp router-id 10.66.0.1\n coalesce-time 10\n"
                                         " no bgp default ipv4-unicast\n"
                                         " neighbor c peer-group\n neighbor c remote-as 64512\n"
                                         " bgp listen limit 5000\n bgp listen range 10.66.0.0/16 peer-group c\n"
                                         " address-family {} unicast\n  neighbor c activate\n"
                                         "  neighbor c route-reflector-client\n exit-address-family\n",
                                         family));
  return fmt::format("/usr/lib/frr/bgpd -S -Z -f {0}/bgpd.conf -i {0}/bgpd.pid --vty_socket {0} -P 0 -l 10.66.0.1",
                     p.dir.string());
}

std::string floor(const Place& p) {
  const auto& w = p.workload.plan();
  return fmt::format("{} mirror {} {} {} {} {} {} {}", p.options.self, static_cast<int>(w.shape), w.senders,
                     w.receivers, w.per_sender, w.spare, static_cast<int>(w.senders_counted), p.options.damage);
}

struct Row {
  const char* name;
  std::string (*command)(const Place&);  // writes its files into dir, gives the command that stays in the foreground
  const char* needs;                     // a file that must be there; nullptr = see unavailable()
};
constexpr Row kRows[] = {
    {"ours", ours, nullptr},           {"node", node, nullptr},   {"bird2", bird2, "/usr/sbin/bird"},
    {"frr", frr, "/usr/lib/frr/bgpd"}, {"floor", floor, nullptr},
};
const Row& row(const std::string& kind) {
  for (const auto& r : kRows)
    if (kind == r.name) return r;
  throw std::runtime_error("unknown daemon " + kind);
}

std::string slurp(const fs::path& file) {
  std::ifstream in(file);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}
double status_mb(const std::string& status, const char* key) {
  const auto at = status.find(key);
  return at == std::string::npos ? 0 : std::stod(status.substr(at + std::strlen(key))) / 1024;
}

}  // namespace

std::vector<std::string> Daemon::kinds() {
  std::vector<std::string> names;
  for (const auto& r : kRows) names.emplace_back(r.name);
  return names;
}

std::string Daemon::unavailable(const std::string& kind, const DaemonOptions& options) {
  const auto* const file = row(kind).needs;
  const std::string needs = kind == "ours" ? options.speaker : kind == "node" ? options.node : file ? file : "";
  return needs.empty() || fs::exists(needs) ? "" : needs + " is not there";
}

Daemon::Daemon(const test::Netns& ns, const fs::path& dir, const std::string& kind, const Workload& workload,
               const DaemonOptions& options)
    : log_(dir / (kind + ".log")) {
  fs::create_directories(dir);
  const auto command = row(kind).command({dir, workload, options});
  const auto pin = options.cpu < 0 ? std::string() : fmt::format("taskset -c {} ", options.cpu);
  const std::string first = options.realtime ? "chrt -f 1 " : "";
  child_ = std::make_unique<test::Child>(ns.spawn("exec " + pin + first + command, log_.string()));
}

std::string Daemon::wait_listening(std::chrono::seconds limit) const {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < end) {
    for (const auto* table : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
      std::istringstream in(slurp(table));
      std::string line, index, local, remote, state;
      std::getline(in, line);
      while (std::getline(in, line)) {
        std::istringstream words(line);
        words >> index >> local >> remote >> state;
        if (state == "0A" && local.size() > 5 && local.substr(local.size() - 5) == ":00B3") return {};
      }
    }
    if (!alive()) return "it ended: " + log_tail();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return fmt::format("nobody listened on port 179 after {} s: {}", limit.count(), log_tail());
}

bool Daemon::alive() const {
  const auto stat = slurp(fmt::format("/proc/{}/stat", child_->pid()));
  const auto at = stat.rfind(')');
  return at != std::string::npos && at + 2 < stat.size() && stat[at + 2] != 'Z';
}

std::vector<pid_t> Daemon::tree() const {
  std::vector<pid_t> all = {child_->pid()};
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::error_code ec;
    for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", all[i]), ec)) {
      std::istringstream children(slurp(task.path() / "children"));
      for (pid_t pid; children >> pid;) all.push_back(pid);
    }
  }
  return all;
}

double Daemon::cpu_seconds() const {
  double sum = 0;
  for (const auto pid : tree()) {
    clockid_t clock{};
    timespec t{};
    if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &t) == 0)
      sum += static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
  }
  return sum;
}

double Daemon::wait_seconds() const {
  double sum = 0;
  for (const auto pid : tree()) {
    std::error_code ec;
    for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", pid), ec)) {
      std::istringstream in(slurp(task.path() / "schedstat"));
      double ran = 0, waited = 0;
      if (in >> ran >> waited) sum += waited / 1e9;
    }
  }
  return sum;
}

Memory Daemon::memory() const {
  Memory m;
  for (const auto pid : tree()) {
    const auto status = slurp(fmt::format("/proc/{}/status", pid));
    m.rss_mb += status_mb(status, "VmRSS:");
    m.peak_mb += status_mb(status, "VmHWM:");
  }
  return m;
}

std::string Daemon::log_tail() const {
  const auto text = slurp(log_);
  return text.size() <= 600 ? text : "…" + text.substr(text.size() - 600);
}

double own_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

void pin_to(int cpu) {
  if (std::thread::hardware_concurrency() < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}

}  // namespace calico::bench
