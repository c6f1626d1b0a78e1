#include "core/move/mover.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "core/loop/task_group.hpp"
#include "core/model/keys.hpp"
#include "core/model/resources.hpp"

namespace calico::move {
namespace {

namespace json = boost::json;
using store::KeyValue;
using store::TxnRequest;
using store::TxnResult;
using Then = store::Kv::Then;

constexpr std::string_view kAll = "/calico/";
constexpr std::int64_t kPage = 500;
constexpr std::size_t kOps = 100;           // of one transaction; etcd takes 128
constexpr std::size_t kBytes = 512 * 1024;  // a third of what etcd takes
constexpr int kPasses = 5;                  // of a copy overtaken by writers that a freeze does not stop
constexpr int kRegions = 64;
constexpr std::string_view kWho = "store move";

std::string joined(const std::vector<std::string>& all, std::size_t most = 5) {
  std::string out;
  for (std::size_t i = 0; i < std::min(all.size(), most); ++i) out += (i ? ", " : "") + all[i];
  return all.size() > most ? fmt::format("{} and {} more", out, all.size() - most) : out;
}

/// A client's errors name their endpoint; the embedded datastore's do not say whose they are.
tl::unexpected<Error> of(const Side& side, const Error& e) {
  return side.kv ? wrap(e, side.name()) : tl::unexpected<Error>(e);
}

store::PutRequest put_of(std::string_view key, std::string value) {
  store::PutRequest put;
  put.key = std::string(key);
  put.value = std::move(value);
  return put;
}
store::DeleteRequest delete_of(std::string_view key) {
  store::DeleteRequest del;
  del.key = std::string(key);
  return del;
}
store::RangeRequest range_of(std::string_view key) {
  store::RangeRequest range;
  range.key = std::string(key);
  return range;
}
/// Nobody wrote below `prefix` after `revision`.
store::Compare unchanged_since(std::string_view prefix, store::Revision revision) {
  store::Compare c;
  c.key = std::string(prefix);
  c.range_end = store::prefix_end(prefix);
  c.target = store::Compare::Target::mod;
  c.op = store::Compare::Op::less;
  c.number = revision + 1;
  return c;
}

/// What a datastore says of itself and of moves.
struct Signs {
  std::optional<KeyValue> information, pointer_kv, next_kv;
  model::DatastorePointer pointer, next;  ///< generation 0: none, or none that reads
  bool ready = false;
  std::string guid;
};

awaitable<Result<Signs>> read_signs(const Side& side) {
  TxnRequest ask;
  for (const auto key : {model::kClusterInformation, model::kDatastorePointer, model::kNextDatastorePointer})
    ask.success.emplace_back(range_of(key));
  auto got = co_await side.ds->txn(std::move(ask));
  if (!got) co_return tl::unexpected(got.error());
  Signs out;
  std::optional<KeyValue>* const places[] = {&out.information, &out.pointer_kv, &out.next_kv};
  if (got->responses.size() != 3) co_return fail(Errc::internal, "{}: answers are missing", side.name());
  for (std::size_t i = 0; i < 3; ++i)
    if (auto* range = std::get_if<store::RangeResult>(&got->responses[i]); range && !range->kvs.empty())
      *places[i] = std::move(range->kvs.front());
  const auto read = [](const std::optional<KeyValue>& kv, model::DatastorePointer* p) {
    if (!kv) return;
    if (auto parsed = model::parse_datastore_pointer(kv->value)) *p = std::move(*parsed);
  };
  read(out.pointer_kv, &out.pointer);
  read(out.next_kv, &out.next);
  if (out.information)
    if (const auto info = model::parse_cluster_information(out.information->value)) {
      out.ready = info->datastore_ready.value_or(false);
      out.guid = info->cluster_guid;
    }
  co_return out;
}

/// The same ClusterInformation, ready or not.
Result<std::string> with_ready(std::string_view text, bool ready) {
  boost::system::error_code ec;
  auto document = json::parse(text, ec);
  if (ec || !document.is_object()) return fail(Errc::corrupt, "clusterinformations/default cannot be read");
  auto& spec = document.get_object()["spec"];
  if (!spec.is_object()) spec = json::object();
  spec.get_object()["datastoreReady"] = ready;
  return json::serialize(document);
}

/// Goes with a move: not what a lease takes away (its owner writes it again), and not what datastores say of
/// themselves.
bool carried(const KeyValue& kv) {
  return kv.lease == 0 && kv.key != model::kClusterInformation && !kv.key.starts_with(model::kDatastorePointers);
}

/// The new datastore becomes the authority; again is no fault.
awaitable<Status> finish(const Side& to, const model::DatastorePointer& pointer) {
  auto signs = co_await read_signs(to);
  if (!signs) co_return tl::unexpected(signs.error());
  if (signs->pointer.generation >= pointer.generation) co_return Status{};
  if (signs->next.generation != pointer.generation || !signs->information)
    co_return fail(Errc::conflict, "{} does not hold the copy of move {} any more", to.name(), pointer.generation);
  auto information = with_ready(signs->information->value, true);
  if (!information) co_return tl::unexpected(information.error());
  TxnRequest txn;
  txn.who = kWho;
  txn.compare.push_back(store::mod_is(signs->next_kv->key, signs->next_kv->mod_revision));
  txn.success.emplace_back(put_of(model::kDatastorePointer, model::to_json(pointer, false)));
  txn.success.emplace_back(delete_of(model::kNextDatastorePointer));
  txn.success.emplace_back(put_of(model::kClusterInformation, std::move(*information)));
  auto done = co_await to.write(std::move(txn), Then::thawed);
  if (!done) co_return tl::unexpected(done.error());
  if (!done->succeeded) co_return fail(Errc::conflict, "{} was changed by somebody else", to.name());
  co_return Status{};
}

/// A move that was not committed leaves the old datastore as it was; again is no fault. `ready`: it was frozen by its
/// own clusterinformations/default.
awaitable<Status> take_back(const Side& from, std::int64_t generation) {
  auto signs = co_await read_signs(from);
  if (!signs) co_return tl::unexpected(signs.error());
  if (signs->next.generation != generation) co_return Status{};
  TxnRequest txn;
  txn.who = kWho;
  txn.compare.push_back(store::mod_is(signs->next_kv->key, signs->next_kv->mod_revision));
  txn.success.emplace_back(delete_of(model::kNextDatastorePointer));
  if (!signs->ready && signs->information) {
    auto information = with_ready(signs->information->value, true);
    if (!information) co_return tl::unexpected(information.error());
    txn.success.emplace_back(put_of(model::kClusterInformation, std::move(*information)));
  }
  auto done = co_await from.write(std::move(txn));
  if (!done) co_return tl::unexpected(done.error());
  co_return Status{};
}

awaitable<Result<std::vector<std::string>>> names_of_nodes(store::Datastore& ds) {
  std::vector<std::string> out;
  std::string from(model::kNodes);
  for (bool more = true; more;) {
    auto request = range_of(from);
    request.range_end = store::prefix_end(model::kNodes);
    request.limit = kPage;
    request.keys_only = true;
    auto page = co_await ds.range(std::move(request));
    if (!page) co_return tl::unexpected(page.error());
    for (const auto& kv : page->kvs) out.push_back(kv.key.substr(model::kNodes.size()));
    more = page->more && !page->kvs.empty();
    if (more) from = page->kvs.back().key + '\0';
  }
  co_return out;
}

/// Names of the path segments below /calico/felix/v2/, a request each: regions are few, keys many.
awaitable<Result<std::vector<std::string>>> regions(store::Datastore& ds) {
  std::vector<std::string> out;
  std::string from(model::kFelixV2);
  for (int i = 0; i < kRegions; ++i) {
    auto request = range_of(from);
    request.range_end = store::prefix_end(model::kFelixV2);
    request.limit = 1;
    request.keys_only = true;
    auto first = co_await ds.range(std::move(request));
    if (!first) co_return tl::unexpected(first.error());
    if (first->kvs.empty()) break;
    const auto rest = first->kvs.front().key.substr(model::kFelixV2.size());
    const auto region = rest.substr(0, rest.find('/'));
    out.push_back(region);
    from = std::string(model::kFelixV2) + region + static_cast<char>('/' + 1);
  }
  co_return out;
}

/// What each of these nodes reports of itself; one that says nothing is missing.
awaitable<Result<std::map<std::string, model::DatastoreReport>>> reports(store::Datastore& ds,
                                                                         const std::vector<std::string>& nodes) {
  std::map<std::string, model::DatastoreReport> out;
  auto all = co_await regions(ds);
  if (!all) co_return tl::unexpected(all.error());
  for (const auto& region : *all)
    for (std::size_t at = 0; at < nodes.size(); at += kOps) {
      TxnRequest ask;
      const auto end = std::min(nodes.size(), at + kOps);
      for (auto i = at; i < end; ++i)
        ask.success.emplace_back(range_of(fmt::format("{}{}/host/{}/datastore", model::kFelixV2, region, nodes[i])));
      auto got = co_await ds.txn(std::move(ask));
      if (!got) co_return tl::unexpected(got.error());
      for (std::size_t i = 0; i < got->responses.size() && at + i < end; ++i) {
        const auto* range = std::get_if<store::RangeResult>(&got->responses[i]);
        if (!range || range->kvs.empty()) continue;
        if (auto report = model::parse_datastore_report(range->kvs.front().value)) out[nodes[at + i]] = *report;
      }
    }
  co_return out;
}

}  // namespace

awaitable<Result<TxnResult>> Side::write(TxnRequest request, Then then) const {
  if (kv) co_return co_await kv->txn_of_move(std::move(request), then);
  co_return co_await ds->txn(std::move(request));
}

std::string Side::name() const { return kv ? "the embedded datastore" : joined(endpoints, 1); }

awaitable<Result<Followers>> followers(store::Datastore& ds, std::int64_t generation, std::string self) {
  auto nodes = co_await names_of_nodes(ds);
  if (!nodes) co_return tl::unexpected(nodes.error());
  std::erase(*nodes, self);
  auto said = co_await reports(ds, *nodes);
  if (!said) co_return tl::unexpected(said.error());
  Followers out;
  for (const auto& name : *nodes) {
    const auto it = said->find(name);
    (it != said->end() && it->second.generation >= generation ? out.followed : out.waiting).push_back(name);
  }
  co_return out;
}

Mover::Mover(Side from, Side to, Options options, std::function<void(std::string)> say)
    : from_(std::move(from)), to_(std::move(to)), options_(std::move(options)), say_(std::move(say)) {}

awaitable<Result<bool>> Mover::run() {
  auto s = co_await check();
  if (!s) co_return tl::unexpected(s.error());
  s = co_await prepare();
  if (s && !options_.check) s = co_await carry();
  if (!s || options_.check) {
    auto undone = co_await undo();
    if (!undone) {
      const auto first = s ? std::string("checked") : s.error().what;
      co_return fail(undone.error().code,
                     "{}; and it could not be undone: {}; the controller tries again at its next "
                     "start",
                     first, undone.error().what);
    }
    if (!s) co_return tl::unexpected(s.error());
    say_("checked: the cloud can move");
    co_return false;
  }
  say_(fmt::format("committed: {} is the cloud's datastore from here on", to_.name()));
  for (int attempt = 0;; ++attempt) {
    s = co_await finish(to_, pointer_);
    if (s) break;
    if (attempt == 60 || s.error().code == Errc::conflict)
      co_return fail(s.error().code,
                     "moved, but {} does not say yet that it is ready ({}); the controller goes on "
                     "trying",
                     to_.name(), s.error().what);
    const bool slept = co_await sleep_for(options_.poll);
    if (!slept) co_return fail(Errc::canceled, "moved; the controller's next start finishes it");
  }
  say_(fmt::format("{} is ready", to_.name()));
  co_return true;
}

awaitable<Status> Mover::check() {
  auto ours = co_await read_signs(from_);
  if (!ours) co_return of(from_, ours.error());
  if (!ours->ready || ours->guid.empty())
    co_return fail(Errc::conflict, "{} is not ready: there is no cloud to move", from_.name());
  if (ours->next_kv)
    co_return fail(Errc::conflict, "{} says that a move is being made already ({})", from_.name(),
                   joined(ours->next.endpoints));
  auto here = co_await from_.ds->status();
  if (!here) co_return of(from_, here.error());
  auto there = co_await to_.ds->status();
  if (!there) co_return of(to_, there.error());
  if (here->cluster_id == there->cluster_id)
    co_return fail(Errc::invalid, "{} is the datastore the cloud has already", to_.name());
  auto theirs = co_await read_signs(to_);
  if (!theirs) co_return of(to_, theirs.error());
  const bool own_old_store = to_.kv && !to_.kv->frozen().empty();
  if (theirs->information) {
    if (theirs->guid != ours->guid)
      co_return fail(Errc::conflict, "{} holds another cloud (clusterGUID {}): give it an empty /calico/", to_.name(),
                     shown(theirs->guid));
    if (theirs->ready && !own_old_store)
      co_return fail(Errc::conflict, "{} says that it is the cloud's datastore: two cannot be", to_.name());
  } else {
    auto request = range_of(kAll);
    request.range_end = store::prefix_end(kAll);
    request.limit = 1;
    request.keys_only = true;
    auto any = co_await to_.ds->range(std::move(request));
    if (!any) co_return of(to_, any.error());
    if (any->count > 0)
      co_return fail(Errc::conflict, "{} has {} keys below /calico/ and is no copy of this cloud: empty it first",
                     to_.name(), any->count);
  }
  information_ = ours->information->value;
  pointer_.generation = std::max({ours->pointer.generation, theirs->pointer.generation, theirs->next.generation}) + 1;
  pointer_.endpoints = to_.endpoints;
  pointer_.cluster_guid = ours->guid;
  say_(fmt::format("move {}: from {} (revision {}) to {} (version {}, revision {})", pointer_.generation, from_.name(),
                   here->revision, to_.name(), there->version, there->revision));
  co_return Status{};
}

awaitable<Status> Mover::prepare() {
  // The new one first: whoever looks there sees that it is not ready, and that it can be written.
  auto not_ready = with_ready(information_, false);
  if (!not_ready) co_return tl::unexpected(not_ready.error());
  TxnRequest there;
  there.who = kWho;
  there.success.emplace_back(put_of(model::kClusterInformation, std::move(*not_ready)));
  there.success.emplace_back(put_of(model::kNextDatastorePointer, model::to_json(pointer_, true)));
  auto written = co_await to_.write(std::move(there));
  if (!written) co_return wrap(written.error(), fmt::format("writing to {}", to_.name()));
  prepared_ = true;
  TxnRequest here;
  here.who = kWho;
  here.compare.push_back(store::key_absent(std::string(model::kNextDatastorePointer)));
  here.success.emplace_back(put_of(model::kNextDatastorePointer, model::to_json(pointer_, true)));
  auto said = co_await from_.write(std::move(here));
  if (!said) co_return of(from_, said.error());
  if (!said->succeeded) co_return fail(Errc::conflict, "another move has begun meanwhile");
  co_return co_await wait_for_answers();
}

awaitable<Status> Mover::wait_for_answers() {
  const auto time = options_.force ? options_.answer_time / 10 : options_.answer_time;
  const auto deadline = std::chrono::steady_clock::now() + time;
  for (bool first = true;; first = false) {
    auto nodes = co_await names_of_nodes(*from_.ds);
    if (!nodes) co_return of(from_, nodes.error());
    std::erase(*nodes, options_.self);
    auto said = co_await reports(*from_.ds, *nodes);
    if (!said) co_return of(from_, said.error());
    std::vector<std::string> silent, cannot;
    for (const auto& name : *nodes) {
      const auto it = said->find(name);
      if (it == said->end() || it->second.tried != pointer_.generation)
        silent.push_back(name);
      else if (!it->second.error.empty())
        cannot.push_back(fmt::format("{} ({})", name, it->second.error));
    }
    if (silent.empty() && cannot.empty()) {
      say_(fmt::format("all {} other nodes reach {}", nodes->size(), to_.name()));
      co_return Status{};
    }
    if (first) say_(fmt::format("waiting for {} nodes to try {}", nodes->size(), to_.name()));
    if (std::chrono::steady_clock::now() >= deadline) {
      std::string what;
      if (!cannot.empty()) what = fmt::format("{} cannot follow: {}", cannot.size(), joined(cannot));
      if (!silent.empty())
        what += fmt::format("{}{} say nothing: {}", what.empty() ? "" : "; ", silent.size(), joined(silent));
      if (!options_.force)
        co_return fail(Errc::conflict, "{}; mend that, delete Nodes that are gone, or --force leaves them behind",
                       what);
      say_(fmt::format("forced: {}", what));
      co_return Status{};
    }
    const bool slept = co_await sleep_for(options_.poll);
    if (!slept) co_return fail(Errc::canceled, "stopped");
  }
}

Status Mover::in_time() const {
  if (!frozen_ || std::chrono::steady_clock::now() - frozen_since_ < options_.freeze_time) return {};
  return fail(Errc::timeout, "writes were refused for {} s and the copy is not complete",
              std::chrono::duration_cast<std::chrono::seconds>(options_.freeze_time).count());
}

/// All that is carried, at one revision, page by page.
awaitable<Result<Mover::Content>> Mover::read(const Side& side) const {
  for (int attempt = 0;; ++attempt) {
    Content out;
    std::string from(kAll);
    std::optional<Error> error;
    for (bool more = true; more && !error;) {
      if (auto s = in_time(); !s) co_return tl::unexpected(s.error());
      auto request = range_of(from);
      request.range_end = store::prefix_end(kAll);
      request.limit = kPage;
      request.revision = out.revision;
      auto page = co_await side.ds->range(std::move(request));
      if (!page) {
        error = page.error();
        break;
      }
      if (out.revision == 0) out.revision = page->revision;
      more = page->more && !page->kvs.empty();
      if (more) from = page->kvs.back().key + '\0';
      for (auto& kv : page->kvs)
        if (carried(kv)) out.kvs.emplace(kv.key, std::move(kv));
    }
    if (!error) co_return out;
    if (error->code != Errc::compacted || attempt == kPasses) co_return of(side, *error);
  }
}

/// Writes into the new datastore what differs. `have` is its content, and kept so.
awaitable<Status> Mover::make_equal(const Content& want, Content* have) {
  TxnRequest txn;
  std::size_t bytes = 0;
  std::vector<std::string> gone;
  for (const auto& [key, kv] : have->kvs)
    if (!want.kvs.contains(key)) gone.push_back(key);
  auto next = want.kvs.begin();
  auto next_gone = gone.begin();
  for (;;) {
    if (next_gone != gone.end()) {
      txn.success.emplace_back(delete_of(*next_gone));
      bytes += next_gone->size();
      have->kvs.erase(*next_gone++);
    } else if (next != want.kvs.end()) {
      const auto& [key, kv] = *next++;
      auto& there = have->kvs[key];
      if (!there.key.empty() && there.value == kv.value) continue;
      there = kv;
      txn.success.emplace_back(put_of(key, kv.value));
      bytes += key.size() + kv.value.size();
    }
    const bool end = next_gone == gone.end() && next == want.kvs.end();
    if (!end && txn.success.size() < kOps && bytes < kBytes) continue;
    if (!txn.success.empty()) {
      if (auto s = in_time(); !s) co_return s;
      txn.who = kWho;
      auto written = co_await to_.write(std::move(txn));
      if (!written) co_return wrap(written.error(), fmt::format("writing to {}", to_.name()));
    }
    txn = {};
    bytes = 0;
    if (end) co_return Status{};
  }
}

awaitable<Status> Mover::freeze() {
  frozen_since_ = std::chrono::steady_clock::now();
  frozen_ = true;
  if (from_.kv) {
    auto s =
        co_await from_.kv->freeze(fmt::format("the cloud's datastore is being moved to {}, try again", to_.name()));
    co_return s;
  }
  // An etcd takes writes from whoever may; nodes and Neutron's driver stop by themselves when it is not ready.
  auto signs = co_await read_signs(from_);
  if (!signs) co_return of(from_, signs.error());
  if (!signs->information) co_return fail(Errc::conflict, "{}: clusterinformations/default is gone", from_.name());
  auto not_ready = with_ready(signs->information->value, false);
  if (!not_ready) co_return tl::unexpected(not_ready.error());
  TxnRequest txn;
  txn.who = kWho;
  txn.compare.push_back(store::mod_is(signs->information->key, signs->information->mod_revision));
  txn.success.emplace_back(put_of(model::kClusterInformation, std::move(*not_ready)));
  auto done = co_await from_.write(std::move(txn));
  if (!done) co_return of(from_, done.error());
  if (!done->succeeded) co_return fail(Errc::conflict, "clusterinformations/default was changed meanwhile; try again");
  co_return Status{};
}

awaitable<Status> Mover::carry() {
  auto have = co_await read(to_);
  if (!have) co_return tl::unexpected(have.error());
  // Twice while writes go on: the second time only what the first took to copy is left, and the freeze is short.
  Result<Content> want = Content{};
  for (int pass = 0; pass < 2; ++pass) {
    want = co_await read(from_);
    if (!want) co_return tl::unexpected(want.error());
    auto s = co_await make_equal(*want, &*have);
    if (!s) co_return s;
    if (pass == 0) say_(fmt::format("copied {} keys of revision {}", want->kvs.size(), want->revision));
  }
  auto s = co_await freeze();
  if (!s) co_return s;
  say_("writes are refused until the move is through");
  for (int pass = 0; pass < kPasses; ++pass) {
    want = co_await read(from_);
    if (!want) co_return tl::unexpected(want.error());
    s = co_await make_equal(*want, &*have);
    if (!s) co_return s;
    // Not what was written, but what is there.
    have = co_await read(to_);
    if (!have) co_return tl::unexpected(have.error());
    for (const auto& [key, kv] : want->kvs) {
      const auto it = have->kvs.find(key);
      if (it == have->kvs.end() || it->second.value != kv.value)
        co_return fail(Errc::conflict, "{} differs at {}: does somebody else write there?", to_.name(),
                       shown(key, 300));
    }
    if (have->kvs.size() != want->kvs.size())
      co_return fail(Errc::conflict, "{} has {} keys for {}: does somebody else write there?", to_.name(),
                     have->kvs.size(), want->kvs.size());
    s = co_await commit(want->revision);
    if (s || s.error().code != Errc::conflict) break;
  }
  if (s)
    say_(fmt::format(
        "{} keys compared; writes were refused for {} ms", want->kvs.size(),
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - frozen_since_)
            .count()));
  co_return s;
}

awaitable<Status> Mover::commit(store::Revision copied) {
  auto signs = co_await read_signs(from_);
  if (!signs) co_return of(from_, signs.error());
  if (signs->next != pointer_ || !signs->information)
    co_return fail(Errc::corrupt, "{} does not hold this move any more: was it undone by hand?", from_.name());
  TxnRequest txn;
  txn.who = kWho;
  txn.compare.push_back(store::mod_is(signs->next_kv->key, signs->next_kv->mod_revision));
  txn.compare.push_back(unchanged_since(model::kResources, copied));
  txn.compare.push_back(unchanged_since("/calico/dhcp/", copied));
  txn.success.emplace_back(put_of(model::kDatastorePointer, model::to_json(pointer_, false)));
  txn.success.emplace_back(delete_of(model::kNextDatastorePointer));
  // Unchanged: whoever waits for it to become ready wakes up, and sees the pointer.
  txn.success.emplace_back(put_of(model::kClusterInformation, signs->information->value));
  auto done = co_await from_.write(std::move(txn), Then::frozen_for_good);
  if (!done) {
    const bool it_was = co_await committed();
    if (it_was) co_return Status{};
    co_return of(from_, done.error());
  }
  if (!done->succeeded) co_return fail(Errc::conflict, "{} was written meanwhile, again and again", from_.name());
  co_return Status{};
}

/// After an answer that was lost: is the pointer there? Asked until somebody answers.
awaitable<bool> Mover::committed() {
  for (;;) {
    auto signs = co_await read_signs(from_);
    if (signs) co_return signs->pointer.generation >= pointer_.generation;
    if (!in_time()) co_return false;
    const bool slept = co_await sleep_for(options_.poll);
    if (!slept) co_return false;
  }
}

awaitable<Status> Mover::undo() {
  if (!prepared_) co_return Status{};
  Status s;
  for (int attempt = 0; attempt < kPasses; ++attempt) {
    s = co_await take_back(from_, pointer_.generation);
    if (s && frozen_ && from_.kv) s = co_await from_.kv->thaw();
    if (s) break;
    const bool slept = co_await sleep_for(options_.poll);
    if (!slept) break;
  }
  if (!s) co_return of(from_, s.error());
  // The embedded one, frozen for good, must not look like half of a move at the next start.
  if (to_.kv) s = co_await take_back(to_, pointer_.generation);
  if (frozen_) say_("undone: writes are taken as before");
  co_return s;
}

awaitable<Result<Settled>> settle(Side here, Side there) {
  auto ours = co_await read_signs(here);
  if (!ours) co_return of(here, ours.error());
  const bool frozen = here.kv && !here.kv->frozen().empty();
  if (!frozen) {
    if (ours->next.generation == 0) co_return Settled::nothing;
    auto s = co_await take_back(here, ours->next.generation);
    if (!s) co_return of(here, s.error());
    co_return Settled::given_up;
  }
  auto theirs = co_await read_signs(there);
  if (!theirs) co_return of(there, theirs.error());
  if (ours->next.generation == 0) {
    auto s = co_await finish(there, ours->pointer);
    if (!s) co_return of(there, s.error());
    co_return Settled::moved;
  }
  if (theirs->pointer.generation >= ours->next.generation) {
    auto pointer = ours->next;
    auto s = co_await finish(here, pointer);
    if (!s) co_return of(here, s.error());
    co_return Settled::moved_here;
  }
  auto s = co_await take_back(there, ours->next.generation);
  if (!s) co_return of(there, s.error());
  s = co_await take_back(here, ours->next.generation);
  if (!s) co_return of(here, s.error());
  co_return Settled::given_up;
}

}  // namespace calico::move
