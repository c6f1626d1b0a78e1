#include "core/node/store_keeper.hpp"

#include <pthread.h>
#include <signal.h>

#include <boost/json.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "core/log/log.hpp"
#include "core/node/control_reply.hpp"

namespace calico::node {
namespace {

namespace json = boost::json;
using module::ControlReply;
using module::ControlRequest;

constexpr std::size_t kMaxLines = 20000;  // that wait for the log; beyond, their number is logged
constexpr std::size_t kMaxKeys = 16;      // of one line
constexpr std::string_view kReports = "/calico/felix/";

ControlReply reply(const Result<store::StoreFile>& r) {
  if (r)
    return {200, json::serialize(json::object{
                     {"file", r->path}, {"revision", r->revision}, {"keys", r->keys}, {"bytes", r->bytes}})};
  const auto code = r.error().code;
  const int status = code == Errc::invalid ? 400 : code == Errc::exists ? 409 : 503;
  return error_reply(status, r.error().what);
}

}  // namespace

struct StoreKeeper::Impl {
  std::string state_file;
  std::string backup_directory;
  Audit audit = Audit::intent;
  std::unique_ptr<store::Backups> backups;

  // Of the control thread.
  std::optional<std::future<Result<store::StoreFile>>> saving;
  std::string saving_to;

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<store::Revised> lines;
  std::uint64_t dropped = 0;
  std::string disk_error;
  bool stopping = false;
  std::thread thread;

  void written(const std::vector<store::Revised>& revised);
  void run();
  ControlReply save(const ControlRequest& r);
  ControlReply saved();
  ControlReply list();
};

StoreKeeper::Audit StoreKeeper::audit_of(std::string_view text) {
  return text == "no" ? Audit::no : text == "all" ? Audit::all : Audit::intent;
}

std::string StoreKeeper::keys_of(const store::Revised& revised, Audit audit) {
  if (audit == Audit::no) return {};
  std::string out;
  std::size_t n = 0;
  for (const auto& change : revised.changes) {
    if (audit == Audit::intent && change->kv->key.starts_with(kReports)) continue;
    if (++n > kMaxKeys) continue;
    if (!out.empty()) out += ", ";
    out += change->type == store::Event::Type::put ? "put " : "delete ";
    out += change->kv->key;
  }
  if (n > kMaxKeys) out += fmt::format(" and {} more", n - kMaxKeys);
  return out;
}

/// On the writer: only pointers are kept.
void StoreKeeper::Impl::written(const std::vector<store::Revised>& revised) {
  std::size_t taken = 0;
  {
    std::lock_guard lock(mutex);
    for (const auto& r : revised) {
      if (lines.size() >= kMaxLines) {
        ++dropped;
        continue;
      }
      lines.push_back(r);
      ++taken;
    }
  }
  if (taken > 0) wake.notify_one();
}

void StoreKeeper::Impl::run() {
  for (;;) {
    std::deque<store::Revised> some;
    std::uint64_t lost = 0;
    bool last = false;
    {
      std::unique_lock lock(mutex);
      wake.wait(lock, [this] { return stopping || !lines.empty(); });
      some.swap(lines);
      lost = std::exchange(dropped, 0);
      last = stopping;
    }
    for (const auto& r : some) {
      const auto keys = keys_of(r, audit);
      if (keys.empty()) continue;
      log::info("store.write", "who", r.who.empty() ? "not said" : r.who, "revision", r.revision, "keys", keys);
    }
    if (lost > 0) log::warn("store.audit_incomplete", "revisions", lost, "why", "written faster than logged");
    if (last) return;
  }
}

StoreKeeper::StoreKeeper(const std::string& state_dir, Audit audit) : impl_(std::make_unique<Impl>()) {
  impl_->state_file = state_dir + "/state.db";
  impl_->backup_directory = state_dir + "/backup";
  impl_->audit = audit;
  store::Backups::Options options;
  options.path = impl_->state_file;
  options.directory = impl_->backup_directory;
  options.on_done = [](const Result<store::StoreFile>& r) {
    if (r)
      log::info("store.backup", "file", r->path, "revision", r->revision, "keys", r->keys, "bytes", r->bytes);
    else
      log::error("store.backup_failed", "what", r.error().what, "then",
                 "older backups stay; tried again in 10 minutes");
  };
  impl_->backups = std::make_unique<store::Backups>(std::move(options));
}

StoreKeeper::~StoreKeeper() { stop(); }

void StoreKeeper::prepare(store::Kv::Options& options) {
  options.backup_directory = impl_->backup_directory;
  options.on_disk = [impl = impl_.get()](const std::optional<Error>& e) {
    {
      std::lock_guard lock(impl->mutex);
      impl->disk_error = e ? e->what : std::string();
    }
    if (e)
      log::error("store.disk", "what", e->what, "then", "writes are refused, reads go on; every write tries again");
    else
      log::info("store.disk_recovered");
  };
  if (impl_->audit != Audit::no)
    options.on_written = [impl = impl_.get()](const std::vector<store::Revised>& r) { impl->written(r); };
}

void StoreKeeper::start() {
  impl_->backups->start();
  if (impl_->audit == Audit::no || impl_->thread.joinable()) return;
  impl_->thread = std::thread([impl = impl_.get()] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "kv-audit");
    impl->run();
  });
}

void StoreKeeper::stop() {
  impl_->backups->stop();
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  if (impl_->thread.joinable()) impl_->thread.join();
}

store::Backups& StoreKeeper::backups() { return *impl_->backups; }

ControlReply StoreKeeper::Impl::save(const ControlRequest& r) {
  const auto file = param(r, "file");
  if (file.empty()) return error_reply(400, "which file?");
  if (saving && saving->wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    return error_reply(409, fmt::format("{} is being written", saving_to));
  saving_to = file;
  saving = backups->save(saving_to);
  return saved();
}

ControlReply StoreKeeper::Impl::saved() {
  if (!saving) return error_reply(404, "nothing is being saved");
  if (saving->wait_for(kAnswerTime) != std::future_status::ready)
    return {202, json::serialize(json::object{{"file", saving_to}, {"state", "being written"}})};
  const auto done = saving->get();
  saving.reset();
  return reply(done);
}

ControlReply StoreKeeper::Impl::list() {
  const auto state = backups->state();
  json::array files;
  for (const auto& file : store::list_backups(backup_directory)) files.emplace_back(file);
  json::object out{{"files", std::move(files)}, {"error", state.error}};
  std::lock_guard lock(mutex);
  out["disk"] = disk_error;
  return {200, json::serialize(out)};
}

void StoreKeeper::handle(module::Control& control, StoreKeeper* keeper) {
  if (!keeper) {
    const auto elsewhere = [](const ControlRequest&) {
      return error_reply(409,
                         "the datastore is not on this host: save it where it is (of etcd: etcdctl snapshot save)");
    };
    for (const char* route : {"POST /store/save", "GET /store/save", "GET /store/backups"})
      control.handle(route, elsewhere);
    return;
  }
  auto* i = keeper->impl_.get();
  control.handle("POST /store/save", [i](const ControlRequest& r) { return i->save(r); });
  control.handle("GET /store/save", [i](const ControlRequest&) { return i->saved(); });
  control.handle("GET /store/backups", [i](const ControlRequest&) { return i->list(); });
}

}  // namespace calico::node
