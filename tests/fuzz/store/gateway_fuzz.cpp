// Bodies of etcd's JSON gateway, the first byte choosing the path: any bytes are a request or a refusal in etcd's
// shape. A request that was understood is weighed by the rights and tried on a small key space, and what our own client
// would send for it is understood as the same request. The last choices are answers, which the client reads.
#include <array>
#include <boost/json.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/store/etcd/client_json.hpp"
#include "core/store/etcd/json.hpp"
#include "core/store/etcd/rights.hpp"
#include "core/store/etcd/single.hpp"
#include "core/store/kv_state.hpp"

using namespace calico;
using namespace calico::store;
using namespace calico::store::etcd;

namespace {

namespace json = boost::json;

const std::string kOwn = "/calico/felix/v2/no-region/host/n/";

void require(bool ok) {
  if (!ok) std::abort();
}

void refused(const Fault& f) {
  require(f.http >= 400 && f.http <= 501 && f.code > 0 && !f.message.empty());
  boost::system::error_code ec;
  const auto v = json::parse(to_json(f), ec);
  require(!ec && v.at("code") == f.code && v.at("message") == v.at("error"));
}

const Index& keys() {
  static const Index index = [] {
    Index all;
    Revision r = 2;
    for (const char* key : {"/calico/a", "/calico/b", "/calico/felix/v2/no-region/host/n/status", "/x"}) {
      all.insert(std::make_shared<const KeyValue>(KeyValue{key, "v", r, r, 1, r == 3 ? 7 : 0}));
      ++r;
    }
    return all;
  }();
  return index;
}

/// An allowed range holds nothing of others.
void weigh(std::string_view key, std::string_view end, bool write) {
  const Rights node{Rights::Kind::node, "n"};
  require(!may_read({}, key, end) && !may_write({}, key, end));
  if (!(write ? may_write(node, key, end) : may_read(node, key, end))) return;
  const KeySpan span{key, end};
  for (const char* foreign : {"/x", "/calico0", "/calico", "0"}) require(!span.contains(foreign));
  if (!write) return;
  for (const char* foreign : {"/calico/a", "/calico/b", "/calico/felix/v2/no-region/host/m/status",
                              "/calico/felix/v2/no-region/host/n", "/calico/felix/v2/no-region/host/n0/status"})
    require(!span.contains(foreign));
}

void use(const RangeRequest& r) {
  weigh(r.key, r.range_end, false);
  if (!check(r)) return;
  const Staged staged(keys());
  const auto selected = select(r, [&](const std::function<bool(const KvPtr&)>& f) {
    staged.each({r.key, r.range_end}, f);
  });
  require(selected.kvs.size() <= keys().size() && selected.count <= static_cast<std::int64_t>(keys().size()));
  if (r.limit > 0) require(static_cast<std::int64_t>(selected.kvs.size()) <= r.limit);
  const auto text = to_json({1, 2}, materialise(r, selected, 9));
  const auto back = decode_range(text);
  require(back && back->count == selected.count && back->more == selected.more &&
          back->kvs.size() == selected.kvs.size());
}
void use(const PutRequest& r) { weigh(r.key, {}, true); }
void use(const DeleteRequest& r) { weigh(r.key, r.range_end, true); }
void use(const TxnRequest& r) {
  const Rights node{Rights::Kind::node, "n"};
  const bool allowed = may(node, r);
  const Staged staged(keys());
  for (const auto& c : r.compare) {
    weigh(c.key, c.range_end, false);
    require(!allowed || may_read(node, c.key, c.range_end));
    (void)holds(c, staged);
  }
  for (const auto* branch : {&r.success, &r.failure})
    for (const auto& op : *branch)
      std::visit(
          [&](const auto& o) {
            use(o);
            require(!allowed || may(node, o));
          },
          op);
  (void)check(r);
}

template <class T>
void request(const Parsed<T>& parsed, Parsed<T> (*parse)(std::string_view)) {
  if (!parsed) return refused(parsed.error());
  use(*parsed);
  const auto text = encode(*parsed);
  const auto again = parse(text);
  require(again && encode(*again) == text);
}

template <class T>
void call(const Parsed<T>& parsed) {
  if (!parsed) refused(parsed.error());
}

constexpr std::array kPaths{"auth/authenticate",     "auth/user/add",       "auth/role/get", "maintenance/alarm",
                            "cluster/member/remove", "cluster/member/list", "lock/lock",     "nope"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (static_cast<char>(data[0])) {
    case 'r':
      request(parse_range(body), parse_range);
      break;
    case 'p':
      request(parse_put(body), parse_put);
      break;
    case 'd':
      request(parse_delete(body), parse_delete);
      break;
    case 't':
      request(parse_txn(body), parse_txn);
      break;
    case 'w': {
      const auto w = parse_watch(body);
      if (!w) {
        refused(w.error());
        break;
      }
      weigh(w->request.key.empty() ? std::string_view("\0", 1) : w->request.key, w->request.range_end, false);
      require(parse_watch(encode(w->request)).has_value());
      break;
    }
    case 'c':
      call(parse_compaction(body));
      break;
    case 'l':
      call(parse_lease(body));
      break;
    case 'n':
      call(parse_nothing(body));
      break;
    case 'a':
      for (const char* path : kPaths) {
        const auto a = single_answer(path, body, {1, 2}, 3, {"https://[::1]:2379"});
        if (!a) continue;
        call(*a);
        boost::system::error_code ec;
        if (*a) (void)json::parse(**a, ec);
        require(!ec);
      }
      break;
    case 'R':
      (void)decode_range(body);
      (void)decode_put(body);
      (void)decode_delete(body);
      (void)decode_header(body);
      break;
    case 'T': {
      TxnRequest asked;
      asked.success = {RangeRequest{.key = "a"}, PutRequest{.key = "b"}, DeleteRequest{.key = "c"}};
      (void)decode_txn(body, asked);
      break;
    }
    case 'W':
      (void)decode_watch_line(body);
      (void)decode_keepalive(body);
      (void)decode_grant(body);
      (void)decode_time_to_live(body);
      (void)decode_status(body);
      break;
    case 'E':
      for (const unsigned status : {400U, 500U}) require(!decode_refusal(status, body).error.what.empty());
      require(!refusal_of_reason(body).error.what.empty());
      break;
    default:
      break;
  }
  return 0;
}
