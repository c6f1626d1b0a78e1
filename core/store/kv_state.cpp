#include "core/store/kv_state.hpp"

#include <algorithm>

namespace calico::store {
namespace {

template <class T>
bool compare_as(Compare::Op op, const T& have, const T& want) {
  switch (op) {
    case Compare::Op::equal:
      return have == want;
    case Compare::Op::not_equal:
      return have != want;
    case Compare::Op::greater:
      return have > want;
    case Compare::Op::less:
      return have < want;
  }
  return false;
}

Status key_given(std::string_view key) {
  if (key.empty()) return fail(Errc::invalid, "key is not provided");
  return {};
}

Status put_given(const PutRequest& request) {
  if (auto s = key_given(request.key); !s) return s;
  if (request.ignore_value && !request.value.empty()) return fail(Errc::invalid, "value is provided");
  if (request.ignore_lease && request.lease != 0) return fail(Errc::invalid, "lease is provided");
  return {};
}

Status fits(std::size_t bytes) {
  if (bytes >= kMaxRequestBytes)
    return fail(Errc::exhausted, "request is too large: {} bytes, the limit is {}", bytes, kMaxRequestBytes);
  return {};
}

std::size_t size_of(const Op& op) {
  if (const auto* r = std::get_if<RangeRequest>(&op)) return r->key.size() + r->range_end.size();
  if (const auto* p = std::get_if<PutRequest>(&op)) return p->key.size() + p->value.size();
  const auto& d = std::get<DeleteRequest>(op);
  return d.key.size() + d.range_end.size();
}

Status check_branch(const std::vector<Op>& ops) {
  if (ops.size() > kMaxTxnOps)
    return fail(Errc::invalid, "too many operations in txn request: {}, the limit is {}", ops.size(), kMaxTxnOps);
  std::set<std::string_view> puts;
  for (const auto& op : ops) {
    const auto* put = std::get_if<PutRequest>(&op);
    const auto ok = put ? put_given(*put) : std::visit([](const auto& o) { return key_given(o.key); }, op);
    if (!ok) return ok;
    if (put && !puts.insert(put->key).second) return fail(Errc::invalid, "duplicate key given in txn request");
  }
  for (const auto& op : ops) {
    const auto* del = std::get_if<DeleteRequest>(&op);
    if (!del) continue;
    const KeySpan span{del->key, del->range_end};
    const auto it = puts.lower_bound(del->key);
    if (it != puts.end() && span.contains(*it)) return fail(Errc::invalid, "duplicate key given in txn request");
  }
  return {};
}

}  // namespace

KvPtr Staged::get(std::string_view key) const {
  if (const auto it = changes_.find(key); it != changes_.end()) return it->second;
  const auto it = base_.find(key);
  return it == base_.end() ? nullptr : *it;
}

void Staged::each(KeySpan span, const std::function<bool(const KvPtr&)>& f) const {
  if (span.single()) {
    if (auto kv = get(span.key)) f(kv);
    return;
  }
  auto base = base_.lower_bound(span.key);
  auto over = changes_.lower_bound(span.key);
  for (;;) {
    const bool has_base = base != base_.end() && span.contains((*base)->key);
    const bool has_over = over != changes_.end() && span.contains(over->first);
    if (!has_base && !has_over) return;
    if (has_over && (!has_base || over->first <= (*base)->key)) {
      if (has_base && over->first == (*base)->key) ++base;
      const auto& kv = over->second;
      ++over;
      if (kv && !f(kv)) return;
    } else {
      const auto& kv = *base;
      ++base;
      if (!f(kv)) return;
    }
  }
}

void Staged::set(KvPtr kv) {
  auto key = kv->key;
  changes_.insert_or_assign(std::move(key), std::move(kv));
}

void Staged::erase(std::string_view key) { changes_.insert_or_assign(std::string(key), nullptr); }

Selected select(const RangeRequest& request,
                const std::function<void(const std::function<bool(const KvPtr&)>&)>& each) {
  Selected out;
  const auto limit = request.limit > 0 ? static_cast<std::size_t>(request.limit) : SIZE_MAX;
  // A target other than the key without an order means ascending; keys come ascending by themselves. What is sorted
  // then is what etcd has fetched by key, one more than the limit; all of the range only when an order or a filter is
  // given.
  const bool sorted = request.sort_target != SortTarget::key || request.sort_order == SortOrder::descend;
  const bool all = request.sort_order != SortOrder::none || request.filtered() || limit == SIZE_MAX;
  const auto within = [](Revision r, Revision min, Revision max) {
    return (min == 0 || r >= min) && (max == 0 || r <= max);
  };
  std::size_t matching = 0;
  each([&](const KvPtr& kv) {
    ++out.count;
    if (request.count_only || !within(kv->mod_revision, request.min_mod_revision, request.max_mod_revision) ||
        !within(kv->create_revision, request.min_create_revision, request.max_create_revision))
      return true;
    ++matching;
    if (sorted ? all || out.kvs.size() <= limit : out.kvs.size() < limit) out.kvs.push_back(kv);
    return true;
  });
  if (request.count_only) return out;
  if (sorted) {
    const auto by = [&](const auto& get) {
      std::stable_sort(out.kvs.begin(), out.kvs.end(), [&](const KvPtr& a, const KvPtr& b) {
        return request.sort_order == SortOrder::descend ? get(*b) < get(*a) : get(*a) < get(*b);
      });
    };
    switch (request.sort_target) {
      case SortTarget::key:
        by([](const KeyValue& kv) -> const std::string& { return kv.key; });
        break;
      case SortTarget::version:
        by([](const KeyValue& kv) { return kv.version; });
        break;
      case SortTarget::create:
        by([](const KeyValue& kv) { return kv.create_revision; });
        break;
      case SortTarget::mod:
        by([](const KeyValue& kv) { return kv.mod_revision; });
        break;
      case SortTarget::value:
        by([](const KeyValue& kv) -> const std::string& { return kv.value; });
        break;
    }
    if (out.kvs.size() > limit) out.kvs.resize(limit);
  }
  out.more = matching > out.kvs.size();
  return out;
}

RangeResult materialise(const RangeRequest& request, const Selected& selected, Revision revision) {
  RangeResult r{.revision = revision, .kvs = {}, .more = selected.more, .count = selected.count};
  r.kvs.reserve(selected.kvs.size());
  for (const auto& kv : selected.kvs) {
    if (request.keys_only)
      r.kvs.push_back({kv->key, {}, kv->create_revision, kv->mod_revision, kv->version, kv->lease});
    else
      r.kvs.push_back(*kv);
  }
  return r;
}

Status check(const RangeRequest& request) {
  if (auto s = key_given(request.key); !s) return s;
  return fits(request.key.size() + request.range_end.size());
}

Status check(const PutRequest& request) {
  if (auto s = put_given(request); !s) return s;
  return fits(request.key.size() + request.value.size());
}

Status check(const DeleteRequest& request) {
  if (auto s = key_given(request.key); !s) return s;
  return fits(request.key.size() + request.range_end.size());
}

Status check(const TxnRequest& request) {
  if (request.compare.size() > kMaxTxnOps)
    return fail(Errc::invalid, "too many operations in txn request: {} compares, the limit is {}",
                request.compare.size(), kMaxTxnOps);
  std::size_t bytes = 0;
  for (const auto& c : request.compare) {
    if (auto s = key_given(c.key); !s) return s;
    bytes += c.key.size() + c.range_end.size() + c.value.size();
  }
  for (const auto* branch : {&request.success, &request.failure}) {
    if (auto s = check_branch(*branch); !s) return s;
    for (const auto& op : *branch) bytes += size_of(op);
  }
  return fits(bytes);
}

bool holds(const Compare& compare, const KeyValue* kv) {
  switch (compare.target) {
    case Compare::Target::version:
      return compare_as(compare.op, kv ? kv->version : 0, compare.number);
    case Compare::Target::create:
      return compare_as(compare.op, kv ? kv->create_revision : 0, compare.number);
    case Compare::Target::mod:
      return compare_as(compare.op, kv ? kv->mod_revision : 0, compare.number);
    case Compare::Target::lease:
      return compare_as(compare.op, kv ? kv->lease : 0, compare.number);
    case Compare::Target::value:
      // A key that is not there has no value: no comparison with it holds, not even "differs" (as etcd).
      return kv && compare_as(compare.op, kv->value, compare.value);
  }
  return false;
}

bool holds(const Compare& compare, const Staged& staged) {
  bool any = false;
  bool all = true;
  staged.each({compare.key, compare.range_end}, [&](const KvPtr& kv) {
    any = true;
    all = holds(compare, kv.get());
    return all;
  });
  return any ? all : holds(compare, nullptr);
}

}  // namespace calico::store
