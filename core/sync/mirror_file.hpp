#pragma once
/// The mirror's SQLite side: loads at open, then commits merged changes from a thread of its own.
/// Thread: open and load: the opener; push, flush: any. Owns: the connection and the writer thread.
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "core/store/db.hpp"
#include "core/sync/mirror.hpp"

namespace calico::sync {

/// What one commit writes: keys (absent = gone) and the state they lead to.
struct MirrorChange {
  std::map<std::string, std::optional<store::KeyValue>> keys;
  std::map<std::string, store::Revision> revisions;  ///< prefix → exact up to
  Identity identity;
  bool everything = false;  ///< `keys` is the whole content: delete the rest
};

class MirrorFile {
 public:
  struct Loaded {
    Mirror::Content content;
    std::map<std::string, store::Revision> revisions;
    Identity identity;
  };
  /// `whole` gives the content again, after a corrupt file had to be begun anew. Called in the writer thread.
  [[nodiscard]] static Result<std::unique_ptr<MirrorFile>> open(std::string path, std::function<MirrorChange()> whole);
  ~MirrorFile();

  /// What the file holds; a damaged one is set aside first and nothing is loaded.
  [[nodiscard]] Result<Loaded> load();
  void start();
  void push(MirrorChange change);
  void flush();
  std::string note() const;
  std::string error() const;

 private:
  MirrorFile(std::string path, std::function<MirrorChange()> whole)
      : path_(std::move(path)), whole_(std::move(whole)) {}
  Status open_db();
  Status set_aside(const std::string& why);
  Result<Loaded> read();
  Status write(const MirrorChange& change);
  void run();

  const std::string path_;
  const std::function<MirrorChange()> whole_;
  std::unique_ptr<store::Db> db_;  // opener, then the writer thread
  mutable std::mutex m_;
  std::condition_variable wake_, idle_;
  std::optional<MirrorChange> pending_;
  bool writing_ = false, stopping_ = false;
  std::string note_, error_;
  std::thread thread_;
};

}  // namespace calico::sync
