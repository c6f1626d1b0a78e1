#include "core/node/runtime.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <set>

#include "core/bgp/speaker.hpp"
#include "core/config/diff.hpp"
#include "core/log/log.hpp"
#include "core/loop/loop.hpp"
#include "core/model/keys.hpp"
#include "core/module/context.hpp"
#include "core/module/control_server.hpp"
#include "core/module/module.hpp"
#include "core/node/collectors.hpp"
#include "core/node/datastore.hpp"
#include "core/node/join_control.hpp"
#include "core/node/move_control.hpp"
#include "core/node/notify.hpp"
#include "core/node/resource_control.hpp"
#include "core/node/store_control.hpp"
#include "core/node/store_keeper.hpp"
#include "core/node/telemetry.hpp"
#include "core/store/db.hpp"
#include "core/store/kv.hpp"
#include "core/sync/service.hpp"

namespace calico::node {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& w : words) out += (out.empty() ? "" : ",") + w;
  return out;
}

/// The one Context of the process. The main thread makes and destroys it and runs the signals; the rest as Context
/// says.
class Runtime final : public module::Context {
 public:
  explicit Runtime(Plan plan) : plan_(std::move(plan)), current_(plan_.config) {}

  int run() {
    if (auto ok = prepare(); !ok) return say_failed(ok.error());
    auto started = make_shared_parts();
    if (started) started = start_modules();
    if (!started) {
      stop_all();
      return say_failed(started.error());
    }
    wait_for_signals();
    stop_all();
    return exit_code_;
  }

  const std::string& node_name() const override { return config().text("node.name"); }
  const std::string& state_dir() const override { return config().text("node.state_dir"); }
  const std::string& run_dir() const override { return config().text("node.run_dir"); }
  const std::vector<std::string>& roles() const override { return plan_.roles; }
  /// What the process started with: it never changes, so any thread may read it.
  const config::Config& config() const override { return plan_.config; }
  sync::View& view() override { return sync_->view(); }
  sync::Report& report() override { return sync_->report(); }
  store::Datastore& datastore() override { return sync_->datastore(); }
  store::Kv* kv() override { return datastore_->kv(); }
  store::Kv* embedded() override { return datastore_->embedded(); }
  bgp::Speaker& speaker() override { return *speaker_; }
  module::Control& control() override { return control_; }
  module::Telemetry& telemetry() override { return telemetry_; }

  void ready(std::string_view module) override {
    std::lock_guard lock(mutex_);
    waiting_.erase(std::string(module));
    if (waiting_.empty() && started_ && !ready_sent_) {
      tell_ready();
    } else {
      tell_waiting();
    }
  }
  void status(std::string_view module, std::string line) override {
    std::lock_guard lock(mutex_);
    status_[std::string(module)] = std::move(line);
    std::string all;
    for (const auto& [name, text] : status_) all += fmt::format("{}{}: {}", all.empty() ? "" : "; ", name, text);
    notify("STATUS=" + all);
  }
  void fatal(std::string_view module, std::string reason) override {
    log::error("node.fatal", "module", module, "reason", reason);
    asio::post(io_, [this] {
      exit_code_ = 3;
      io_.stop();
    });
  }
  void fail_create(std::string reason) override { create_failure_ = std::move(reason); }
  /// The process is to begin anew.
  bool again() const { return again_; }

 private:
  struct Running {
    const calico_module_v1* table;
    module::Module* object;
  };

  static int say_failed(const Error& e) {
    fmt::print(stderr, "calico-node: {}\n", e.what);
    return e.code == Errc::invalid ? 2 : 3;
  }

  /// Both under the mutex.
  void tell_ready() {
    ready_sent_ = true;
    notify("READY=1");
    telemetry_.health().set("node", {.ready = true, .detail = joined(plan_.roles)});
    log::info("node.ready", "name", node_name(), "roles", joined(plan_.roles));
  }
  void tell_waiting() {
    if (ready_sent_) return;
    std::string who;
    for (const auto& m : waiting_) who += (who.empty() ? "" : ",") + m;
    telemetry_.health().set("node", {.ready = false, .detail = "waiting for " + (who.empty() ? "its start" : who)});
  }

  /// A reflector has a descriptor a session, and the usual soft limit is 1024.
  static void raise_descriptor_limit() {
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
    files.rlim_cur = std::max(files.rlim_cur, std::min<rlim_t>(files.rlim_max, 65536));
    ::setrlimit(RLIMIT_NOFILE, &files);
  }

  Status prepare() {
    namespace fs = std::filesystem;
    raise_descriptor_limit();
    // run_dir is open to read: dnsmasq reads its files there as its own user; the sockets in it have modes of their
    // own.
    const auto group = fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec;
    for (const auto& [dir, mode] : {std::pair{state_dir(), group},
                                    std::pair{run_dir(), group | fs::perms::others_read | fs::perms::others_exec}}) {
      std::error_code ec;
      fs::create_directories(dir, ec);
      if (ec) return fail(Errc::no_permission, "{}: cannot be made: {}", dir, ec.message());
      fs::permissions(dir, mode, ec);
    }
    auto lock = store::StateLock::acquire(state_dir(), "calico-node role " + joined(plan_.roles));
    if (!lock) return tl::unexpected(lock.error());
    lock_.emplace(std::move(*lock));
    log::info("node.start", "version", CALICO_VERSION, "roles", joined(plan_.roles), "name", node_name(), "region",
              config().is_set("openstack.region") ? config().text("openstack.region") : "none", "datastore",
              config().is_set("datastore.endpoints") ? config().text("datastore.endpoints") : "embedded", "peers",
              config().sections("bgp.peer").size());
    return {};
  }

  bool has_role(std::string_view name) const {
    return std::find(plan_.roles.begin(), plan_.roles.end(), name) != plan_.roles.end();
  }

  /// The order matters: what comes later uses what came before; stop_all() goes the other way.
  Status make_shared_parts() {
    {
      std::lock_guard lock(mutex_);
      tell_waiting();
    }
    configure_telemetry(config());
    telemetry_.start();
    auto datastore = Datastore::open(config(), has_role("controller"), state_dir());
    if (!datastore) return tl::unexpected(datastore.error());
    datastore_ = std::move(*datastore);
    datastore_->on_restart_needed([this] { begin_anew(); });

    const auto& region = config().text("openstack.region");

    sync::Options options;
    options.datastore = datastore_->shared();
    options.node = node_name();
    options.region = region;
    // The embedded datastore is the authority: no second copy of it on the same disk.
    // A controller has the API's rows in state.db: a mirror that is set aside when damaged must not take them along.
    if (datastore_->kv()) remove_old_mirror();
    if (!datastore_->kv()) options.mirror_file = state_dir() + (has_role("controller") ? "/mirror.db" : "/state.db");
    // Only our own API wants the agents' reports; a watch more on a remote datastore would be its third.
    if (datastore_->kv()) options.extra_prefixes = {model::felix_hosts_prefix(region)};
    // Where the embedded one is the authority nobody leads us elsewhere.
    if (!datastore_->kv()) {
      options.use = [this](model::DatastorePointer p) { return datastore_->follow(std::move(p)); };
      options.probe = [this](model::DatastorePointer p) { return datastore_->probe(std::move(p)); };
    }
    auto service = sync::Service::open(std::move(options));
    if (!service) return wrap(service.error(), "sync");
    sync_ = std::move(*service);
    sync_->start();
    sync_state_ = sync_->view().watch({"/calico/resources/v3/projectcalico.org/clusterinformations/"},
                                      io_.get_executor(), [this](const sync::Batch& b) { sync_changed(b.state); });

    if (has_role("compute") || has_role("route-reflector")) {
      bgp::Speaker::Options bgp;
      bgp.node = node_name();
      bgp.compute = has_role("compute");
      bgp.reflector = has_role("route-reflector");
      bgp.roles = plan_.roles;
      bgp.state_dir = state_dir();
      bgp.run_dir = run_dir();
      bgp::Speaker::Hooks hooks;
      hooks.status = [this](std::string line) { status("bgp", std::move(line)); };
      hooks.fatal = [this](std::string reason) { fatal("bgp", std::move(reason)); };
      // speaker (loop bgp) -> main: `configure`; one answer each.
      hooks.configure = [this](bool check, std::function<void(bgp::ConfigureAnswer)> done) {
        asio::post(io_, [this, check, done = std::move(done)] { done(reload(check)); });
      };
      auto speaker = bgp::Speaker::create(config(), bgp, sync_->view(), sync_->report(), hooks);
      if (!speaker) return wrap(speaker.error(), "bgp");
      speaker_ = std::move(*speaker);
      // Here and not in a module: compute and route-reflector share the speaker.
      control_.handle("GET /bgp", [this](const module::ControlRequest&) {
        return module::ControlReply{200, speaker_->describe()};
      });
    }

    join_control_ = std::make_unique<JoinControl>(*datastore_, control_);
    store_control_ = std::make_unique<StoreControl>(
        *sync_, region, control_, [this](const std::string& name) { return join_control_->revoke(name); });
    StoreKeeper::handle(control_, datastore_->keeper());
    move_control_ = std::make_unique<MoveControl>(*datastore_, control_, node_name(), [this] { begin_anew(); });
    resource_control_ = std::make_unique<ResourceControl>(sync_->datastore(), control_);
    control_.handle("GET /status", [this](const module::ControlRequest&) { return describe(); });
    collect_metrics();
    control_.handle("GET /metrics", [this](const module::ControlRequest&) {
      return module::ControlReply{200, telemetry_.metrics().text(), "text/plain; version=0.0.4; charset=utf-8"};
    });
    for (const bool ready : {false, true})
      control_.handle(ready ? "GET /readiness" : "GET /liveness", [this, ready](const module::ControlRequest&) {
        const auto a = ready ? telemetry_.health().readiness() : telemetry_.health().liveness();
        return module::ControlReply{a.ok ? 200 : 503, a.json};
      });
    return control_.listen(run_dir() + "/control.ctl");
  }

  void configure_telemetry(const config::Config& c) {
    telemetry_.allow_beyond_loopback(c.boolean("metrics.insecure"));
    std::vector<module::Telemetry::Listen> places;
    if (const auto at = c.ip_port("metrics.listen")) places.push_back({.at = *at, .metrics = true});
    telemetry_.serve("metrics", std::move(places));
  }

  /// What the shared parts count anyway, read at a scrape.
  void collect_metrics() {
    telemetry_.metrics().collect("sync", [this](metrics::Page& page) { collect_sync(page, *sync_); });
    if (auto* kv = datastore_->embedded())
      telemetry_.metrics().collect("store", [kv](metrics::Page& page) { collect_store(page, *kv); });
    if (speaker_) telemetry_.metrics().collect("bgp", [this](metrics::Page& page) { collect_bgp(page, *speaker_); });
  }

  /// Of a time when the cloud's datastore was elsewhere: what it says of moves is old (core/move).
  void remove_old_mirror() {
    for (const auto* suffix : {"", "-wal", "-shm"}) {
      std::error_code ec;
      std::filesystem::remove(state_dir() + "/mirror.db" + suffix, ec);
    }
  }

  void sync_changed(const sync::SyncState& state) {
    status("sync", state.reason.empty() ? std::string(sync::to_string(state.phase))
                                        : fmt::format("{} ({})", sync::to_string(state.phase), state.reason));
    if (state.phase == phase_) return;
    phase_ = state.phase;
    log::info("sync.phase", "phase", sync::to_string(state.phase), "reason", state.reason, "revision", state.revision);
  }

  module::ControlReply describe() {
    std::lock_guard lock(mutex_);
    boost::json::object modules;
    for (const auto& [name, text] : status_) modules[name] = text;
    boost::json::array roles;
    for (const auto& r : plan_.roles) roles.emplace_back(r);
    return {200, boost::json::serialize(boost::json::object{{"version", CALICO_VERSION},
                                                            {"name", node_name()},
                                                            {"roles", roles},
                                                            {"pid", getpid()},
                                                            {"ready", ready_sent_},
                                                            {"status", modules}})};
  }

  Status start_modules() {
    for (const auto& m : plan_.modules) waiting_.insert(m.table->name);
    for (const auto& m : plan_.modules) {
      create_failure_.clear();
      auto* object = m.table->create(*this);
      if (!object)
        return fail(Errc::unavailable, "module {}: {}", m.table->name,
                    create_failure_.empty() ? "could not be created" : create_failure_);
      running_.push_back({m.table, object});
      if (auto ok = object->configure(current_); !ok) return wrap(ok.error(), fmt::format("module {}", m.table->name));
    }
    for (auto& r : running_)
      if (auto ok = r.object->start(); !ok) return wrap(ok.error(), fmt::format("module {}", r.table->name));
    std::lock_guard lock(mutex_);
    started_ = true;
    if (waiting_.empty() && !ready_sent_)
      tell_ready();
    else
      tell_waiting();
    return {};
  }

  void wait_for_signals() {
    std::function<void()> next = [&] {
      signals_.async_wait([&](boost::system::error_code ec, int number) {
        if (ec) return;
        if (number == SIGHUP) {
          (void)reload(false);
          next();
        } else {
          log::info("node.stopping", "signal", number);
          io_.stop();
        }
      });
    };
    next();
    telemetry_.watch("main", io_.get_executor());
    auto work = asio::make_work_guard(io_);
    io_.run();
  }

  /// SIGHUP and birdc's `configure`. With `check` nothing is taken.
  bgp::ConfigureAnswer reload(bool check) {
    bgp::ConfigureAnswer answer;
    answer.source = plan_.source;
    auto loaded = plan_.reload();
    for (const auto& f : loaded.faults) answer.faults.push_back(f.to_string());
    if (answer.faults.empty() && check && speaker_)
      if (auto ok = speaker_->check(loaded.config); !ok) answer.faults.push_back(ok.error().what);
    if (!answer.faults.empty()) {
      if (check) return answer;
      for (const auto& f : answer.faults) log::error("config.fault", "what", f);
      log::error("config.kept", "reason", "the new configuration has faults; the old one stays");
      return answer;
    }
    for (const auto& change : config::diff(current_, loaded.config, config())) {
      answer.changes.push_back(change.to_string());
      if (check) continue;
      if (change.reload == config::Reload::restart)
        log::warn("config.needs_restart", "key", change.key(), "value", change.after);
      else
        log::info("config.changed", "what", change.to_string());
    }
    if (check) return answer;
    for (const auto& w : loaded.warnings) log::warn("config.not_used", "what", w);
    current_ = std::move(loaded.config);
    configure_telemetry(current_);
    for (auto& r : running_)
      if (auto ok = r.object->reconfigure(current_); !ok) {
        log::error("config.refused", "module", r.table->name, "reason", ok.error().what);
        answer.faults.push_back(fmt::format("module {}: {}", r.table->name, ok.error().what));
      }
    log::info("config.reloaded");
    return answer;
  }

  /// From any thread: an orderly end, and the same command line again (run(), below).
  void begin_anew() {
    asio::post(io_, [this] {
      log::info("node.begins_anew");
      again_ = true;
      io_.stop();
    });
  }

  void stop_all() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    // To the supervisor a new beginning is a reload: it must not wait for our end.
    notify(again_ ? fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1000000LL + now.tv_nsec / 1000)
                  : std::string("STOPPING=1"));
    // First the operator's socket: its handlers belong to modules and ask their loops.
    telemetry_.stop();
    control_.stop();
    for (auto r = running_.rbegin(); r != running_.rend(); ++r) r->object->stop();
    for (auto r = running_.rbegin(); r != running_.rend(); ++r) r->table->destroy(r->object);
    running_.clear();
    resource_control_.reset();
    move_control_.reset();
    store_control_.reset();
    join_control_.reset();
    speaker_.reset();
    sync_state_.reset();
    if (sync_) sync_->stop();
    sync_.reset();
    datastore_.reset();
    log::info("node.stopped");
  }

  Plan plan_;
  config::Config current_;  // what the last reload gave the modules; main thread
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGTERM, SIGINT, SIGHUP};
  Telemetry telemetry_;
  std::optional<store::StateLock> lock_;
  std::unique_ptr<Datastore> datastore_;
  std::unique_ptr<sync::Service> sync_;
  std::unique_ptr<sync::Subscription> sync_state_;
  std::optional<sync::Phase> phase_;
  std::unique_ptr<bgp::Speaker> speaker_;
  std::unique_ptr<JoinControl> join_control_;
  std::unique_ptr<StoreControl> store_control_;
  std::unique_ptr<ResourceControl> resource_control_;
  std::unique_ptr<MoveControl> move_control_;
  module::ControlServer control_;
  std::vector<Running> running_;
  std::string create_failure_;
  int exit_code_ = 0;
  bool again_ = false;

  std::mutex mutex_;  // of what follows
  std::set<std::string> waiting_;
  std::map<std::string, std::string> status_;
  bool started_ = false, ready_sent_ = false;
};

/// The same executable with the same arguments, in this process. Returns only when that cannot be: the supervisor
/// then starts us.
int exec_self() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  std::vector<char*> argv;
  for (auto& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  if (words.empty()) return 3;
  ::execv("/proc/self/exe", argv.data());
  log::error("node.cannot_begin_anew", "what", std::generic_category().message(errno));
  return 3;
}

}  // namespace

int run(Plan plan) {
  signal(SIGPIPE, SIG_IGN);
  {
    Runtime runtime(std::move(plan));
    const int code = runtime.run();
    if (!runtime.again() || code != 0) return code;
  }
  return exec_self();
}

}  // namespace calico::node
