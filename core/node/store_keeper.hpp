#pragma once
/// What the embedded datastore needs beside its writers: daily backups, `store save`, a word when the disk refuses
/// writes, and the audit log. A write's line is `store.write who=… revision=… keys="put /calico/…"`, without values.
///
///   StoreKeeper keeper(state_dir, StoreKeeper::audit_of("intent"));
///   keeper.prepare(options);                       // of the Kv, before it is opened
///   auto kv = Kv::open(options);
///   keeper.start();
///
///   POST /store/save?file=F      begins a copy; answers when it is done, or 202 when that takes longer
///   GET  /store/save             what became of it
///   GET  /store/backups          the daily ones, why the last was not made, and why the disk refuses writes
///
/// Thread: constructor, start, stop: main; handlers: the control thread; what prepare() puts into the options: the
/// Kv's writer. Owns: a thread for the lines of the audit log, and the Backups.
#include <memory>
#include <string>
#include <string_view>

#include "core/module/context.hpp"
#include "core/store/backup.hpp"
#include "core/store/kv.hpp"

namespace calico::node {

class StoreKeeper {
 public:
  enum class Audit : std::uint8_t {
    no,
    intent,  ///< not what agents report of themselves (/calico/felix/): a line every few seconds for each host
    all,
  };
  /// "no", "intent" or "all" of [datastore] audit.
  static Audit audit_of(std::string_view text);
  /// What a revision wrote as one line's `keys`, empty when it is not to be logged.
  static std::string keys_of(const store::Revised& revised, Audit audit);

  StoreKeeper(const std::string& state_dir, Audit audit);
  ~StoreKeeper();
  StoreKeeper(const StoreKeeper&) = delete;
  StoreKeeper& operator=(const StoreKeeper&) = delete;

  void prepare(store::Kv::Options& options);
  void start();
  /// Writes what waits of the audit log. After the Kv has stopped.
  void stop();
  store::Backups& backups();

  /// Registers the commands; `keeper` nullptr: this host has no datastore of its own, and they say so.
  static void handle(module::Control& control, StoreKeeper* keeper);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calico::node
