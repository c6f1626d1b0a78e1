#include "core/store/etcd/client_json.hpp"

#include <boost/json.hpp>
#include <charconv>

#include "core/wire/base64.hpp"

namespace calico::store::etcd {
namespace json = boost::json;
namespace {

// grpc's codes that etcd uses.
enum Grpc : int {
  kCanceled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

std::string_view view(const json::string& s) { return {s.data(), s.size()}; }

json::value number(std::int64_t v) { return json::value(json::string(std::to_string(v))); }

json::value bytes(std::string_view v) { return json::value(json::string(wire::base64_encode(v))); }

std::string text(const json::object& o) { return json::serialize(o); }

// ---- requests

json::object object_of(const RangeRequest& r) {
  json::object o{{"key", bytes(r.key)}};
  if (!r.range_end.empty()) o["range_end"] = bytes(r.range_end);
  if (r.limit != 0) o["limit"] = number(r.limit);
  if (r.revision != 0) o["revision"] = number(r.revision);
  static constexpr const char* kOrders[] = {"NONE", "ASCEND", "DESCEND"};
  static constexpr const char* kTargets[] = {"KEY", "VERSION", "CREATE", "MOD", "VALUE"};
  if (r.sort_order != SortOrder::none) o["sort_order"] = kOrders[static_cast<int>(r.sort_order)];
  if (r.sort_target != SortTarget::key) o["sort_target"] = kTargets[static_cast<int>(r.sort_target)];
  if (r.keys_only) o["keys_only"] = true;
  if (r.count_only) o["count_only"] = true;
  if (r.min_mod_revision != 0) o["min_mod_revision"] = number(r.min_mod_revision);
  if (r.max_mod_revision != 0) o["max_mod_revision"] = number(r.max_mod_revision);
  if (r.min_create_revision != 0) o["min_create_revision"] = number(r.min_create_revision);
  if (r.max_create_revision != 0) o["max_create_revision"] = number(r.max_create_revision);
  return o;
}

json::object object_of(const PutRequest& r) {
  json::object o{{"key", bytes(r.key)}, {"value", bytes(r.value)}};
  if (r.lease != 0) o["lease"] = number(r.lease);
  if (r.prev_kv) o["prev_kv"] = true;
  if (r.ignore_value) o["ignore_value"] = true;
  if (r.ignore_lease) o["ignore_lease"] = true;
  return o;
}

json::object object_of(const DeleteRequest& r) {
  json::object o{{"key", bytes(r.key)}};
  if (!r.range_end.empty()) o["range_end"] = bytes(r.range_end);
  if (r.prev_kv) o["prev_kv"] = true;
  return o;
}

json::object object_of(const Compare& c) {
  static constexpr const char* kOps[] = {"EQUAL", "NOT_EQUAL", "GREATER", "LESS"};
  json::object o{{"key", bytes(c.key)}, {"result", kOps[static_cast<int>(c.op)]}};
  // The operand is always written, also when it is zero: its presence is what chooses the kind of comparison.
  switch (c.target) {
    case Compare::Target::version:
      o["target"] = "VERSION";
      o["version"] = number(c.number);
      break;
    case Compare::Target::create:
      o["target"] = "CREATE";
      o["create_revision"] = number(c.number);
      break;
    case Compare::Target::mod:
      o["target"] = "MOD";
      o["mod_revision"] = number(c.number);
      break;
    case Compare::Target::lease:
      o["target"] = "LEASE";
      o["lease"] = number(c.number);
      break;
    case Compare::Target::value:
      o["target"] = "VALUE";
      o["value"] = bytes(c.value);
      break;
  }
  if (!c.range_end.empty()) o["range_end"] = bytes(c.range_end);
  return o;
}

constexpr const char* kRequestNames[] = {"request_range", "request_put", "request_delete_range"};
constexpr const char* kResponseNames[] = {"response_range", "response_put", "response_delete_range"};

json::array array_of(const std::vector<Op>& ops) {
  json::array all;
  for (const auto& op : ops) {
    json::object one;
    one[kRequestNames[op.index()]] = std::visit([](const auto& r) { return object_of(r); }, op);
    all.push_back(std::move(one));
  }
  return all;
}

// ---- answers

Result<json::object> parse_object(std::string_view body) {
  boost::system::error_code ec;
  auto v = json::parse(json::string_view(body.data(), body.size()), ec);
  if (ec) return fail(Errc::invalid, "answer is not JSON: {}", ec.message());
  if (!v.is_object()) return fail(Errc::invalid, "answer is not a JSON object");
  return std::move(v.get_object());
}

/// Reads the fields of one message. The first fault sticks.
class Fields {
 public:
  explicit Fields(const json::object& o) : o_(o) {}
  const json::value* find(std::string_view name) {
    const auto* v = o_.if_contains(json::string_view(name.data(), name.size()));
    return v && !v->is_null() ? v : nullptr;
  }
  std::int64_t number(std::string_view name) {
    const auto* v = find(name);
    if (!v) return 0;
    if (v->is_int64()) return v->get_int64();
    std::int64_t out = 0;
    if (!v->is_string() || !read(view(v->get_string()), out)) bad(name, "is not a 64-bit number");
    return out;
  }
  std::uint64_t unsigned_number(std::string_view name) {
    const auto* v = find(name);
    if (!v) return 0;
    if (v->is_uint64()) return v->get_uint64();
    if (v->is_int64() && v->get_int64() >= 0) return static_cast<std::uint64_t>(v->get_int64());
    std::uint64_t out = 0;
    if (!v->is_string() || !read(view(v->get_string()), out)) bad(name, "is not a 64-bit number");
    return out;
  }
  std::string bytes(std::string_view name) {
    const auto* v = find(name);
    if (!v) return {};
    if (!v->is_string()) return bad(name, "is not a string"), std::string();
    auto decoded = wire::base64_decode(view(v->get_string()));
    if (!decoded) return bad(name, decoded.error().what), std::string();
    return std::move(*decoded);
  }
  std::string string(std::string_view name) {
    const auto* v = find(name);
    if (!v) return {};
    if (!v->is_string()) return bad(name, "is not a string"), std::string();
    return std::string(view(v->get_string()));
  }
  bool flag(std::string_view name) {
    const auto* v = find(name);
    if (!v) return false;
    if (!v->is_bool()) return bad(name, "is not true or false"), false;
    return v->get_bool();
  }
  const json::object* object(std::string_view name) {
    const auto* v = find(name);
    if (!v) return nullptr;
    if (!v->is_object()) return bad(name, "is not an object"), nullptr;
    return &v->get_object();
  }
  const json::array* array(std::string_view name) {
    const auto* v = find(name);
    if (!v) return nullptr;
    if (!v->is_array()) return bad(name, "is not an array"), nullptr;
    return &v->get_array();
  }
  void bad(std::string_view name, std::string_view what) {
    if (fault_.empty()) fault_ = fmt::format("{} {}", name, what);
  }
  bool ok() const { return fault_.empty(); }
  tl::unexpected<Error> fault() const { return fail(Errc::invalid, "answer: {}", fault_); }

 private:
  template <class N>
  static bool read(std::string_view s, N& out) {
    const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), out);
    return ec == std::errc{} && end == s.data() + s.size() && !s.empty();
  }
  const json::object& o_;
  std::string fault_;
};

Result<KeyValue> kv_of(const json::value& v) {
  if (!v.is_object()) return fail(Errc::invalid, "answer: a key's entry is not an object");
  Fields f(v.get_object());
  KeyValue kv;
  kv.key = f.bytes("key");
  kv.value = f.bytes("value");
  kv.create_revision = f.number("create_revision");
  kv.mod_revision = f.number("mod_revision");
  kv.version = f.number("version");
  kv.lease = f.number("lease");
  if (kv.key.empty()) f.bad("key", "is missing");
  if (!f.ok()) return f.fault();
  return kv;
}

Result<std::vector<KeyValue>> kvs_of(Fields& f, std::string_view name) {
  std::vector<KeyValue> all;
  const auto* list = f.array(name);
  if (!list) return all;
  all.reserve(list->size());
  for (const auto& v : *list) {
    auto kv = kv_of(v);
    if (!kv) return tl::unexpected(kv.error());
    all.push_back(std::move(*kv));
  }
  return all;
}

Revision header_revision(Fields& f) {
  const auto* header = f.object("header");
  if (!header) return 0;
  Fields h(*header);
  const auto revision = h.number("revision");
  if (!h.ok()) f.bad("header", "has a bad revision");
  return revision;
}

Result<RangeResult> range_of(const json::object& o) {
  Fields f(o);
  RangeResult r;
  r.revision = header_revision(f);
  auto kvs = kvs_of(f, "kvs");
  if (!kvs) return tl::unexpected(kvs.error());
  r.kvs = std::move(*kvs);
  r.more = f.flag("more");
  r.count = f.number("count");
  if (!f.ok()) return f.fault();
  return r;
}

Result<PutResult> put_of(const json::object& o) {
  Fields f(o);
  PutResult r;
  r.revision = header_revision(f);
  if (const auto* prev = f.find("prev_kv")) {
    auto kv = kv_of(*prev);
    if (!kv) return tl::unexpected(kv.error());
    r.prev = std::move(*kv);
  }
  if (!f.ok()) return f.fault();
  return r;
}

Result<DeleteResult> delete_of(const json::object& o) {
  Fields f(o);
  DeleteResult r;
  r.revision = header_revision(f);
  r.deleted = f.number("deleted");
  auto prev = kvs_of(f, "prev_kvs");
  if (!prev) return tl::unexpected(prev.error());
  r.prev = std::move(*prev);
  if (!f.ok()) return f.fault();
  return r;
}

template <class T>
Result<OpResult> as_op(Result<T> r) {
  if (!r) return tl::unexpected(r.error());
  return OpResult(std::move(*r));
}

template <class F>
auto with_object(std::string_view body, F f) -> decltype(f(std::declval<const json::object&>())) {
  auto o = parse_object(body);
  if (!o) return tl::unexpected(o.error());
  return f(*o);
}

bool has(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

}  // namespace

std::string encode(const RangeRequest& r) { return text(object_of(r)); }
std::string encode(const PutRequest& r) { return text(object_of(r)); }
std::string encode(const DeleteRequest& r) { return text(object_of(r)); }

std::string encode(const TxnRequest& r) {
  json::array compares;
  for (const auto& c : r.compare) compares.push_back(object_of(c));
  return text({{"compare", std::move(compares)}, {"success", array_of(r.success)}, {"failure", array_of(r.failure)}});
}

std::string encode(const WatchRequest& r) {
  json::object o{{"key", bytes(r.key)}};
  if (!r.range_end.empty()) o["range_end"] = bytes(r.range_end);
  if (r.start_revision != 0) o["start_revision"] = number(r.start_revision);
  if (r.prev_kv) o["prev_kv"] = true;
  if (r.progress_notify) o["progress_notify"] = true;
  return text({{"create_request", std::move(o)}});
}

std::string encode_compact(Revision revision) { return text({{"revision", number(revision)}}); }
std::string encode_grant(std::int64_t ttl_s, LeaseId id) { return text({{"TTL", number(ttl_s)}, {"ID", number(id)}}); }
std::string encode_lease(LeaseId id) { return text({{"ID", number(id)}}); }
std::string encode_time_to_live(LeaseId id, bool keys) { return text({{"ID", number(id)}, {"keys", keys}}); }
std::string encode_login(std::string_view name, std::string_view password) {
  return text({{"name", json::string(name)}, {"password", json::string(password)}});
}

Result<RangeResult> decode_range(std::string_view body) { return with_object(body, range_of); }
Result<PutResult> decode_put(std::string_view body) { return with_object(body, put_of); }
Result<DeleteResult> decode_delete(std::string_view body) { return with_object(body, delete_of); }

Result<TxnResult> decode_txn(std::string_view body, const TxnRequest& request) {
  return with_object(body, [&request](const json::object& o) -> Result<TxnResult> {
    Fields f(o);
    TxnResult r;
    r.revision = header_revision(f);
    r.succeeded = f.flag("succeeded");
    const auto& branch = r.succeeded ? request.success : request.failure;
    static const json::array kNone;
    const auto* list = f.array("responses");
    if (!list) list = &kNone;
    if (!f.ok()) return f.fault();
    if (list->size() != branch.size())
      return fail(Errc::invalid, "answer: {} results for {} operations", list->size(), branch.size());
    for (std::size_t i = 0; i < branch.size(); ++i) {
      const auto kind = branch[i].index();
      const auto* one = (*list)[i].if_object();
      const auto* inner = one ? one->if_contains(kResponseNames[kind]) : nullptr;
      if (!inner || !inner->is_object()) return fail(Errc::invalid, "answer: result {} is not of its operation", i);
      const auto& io = inner->get_object();
      auto op = kind == 0 ? as_op(range_of(io)) : kind == 1 ? as_op(put_of(io)) : as_op(delete_of(io));
      if (!op) return tl::unexpected(op.error());
      std::visit([&r](auto& x) { x.revision = x.revision ? x.revision : r.revision; }, *op);
      r.responses.push_back(std::move(*op));
    }
    return r;
  });
}

Result<Revision> decode_header(std::string_view body) {
  return with_object(body, [](const json::object& o) -> Result<Revision> {
    Fields f(o);
    const auto revision = header_revision(f);
    if (!f.ok()) return f.fault();
    return revision;
  });
}

Result<LeaseInfo> decode_grant(std::string_view body) {
  return with_object(body, [](const json::object& o) -> Result<LeaseInfo> {
    Fields f(o);
    LeaseInfo l;
    l.id = f.number("ID");
    l.ttl_s = l.granted_ttl_s = f.number("TTL");
    const auto refused = f.string("error");
    if (!f.ok()) return f.fault();
    if (!refused.empty()) return fail(Errc::unavailable, "lease: {}", shown(refused, 300));
    if (l.id == 0) return fail(Errc::invalid, "answer: lease without a number");
    return l;
  });
}

Result<LeaseInfo> decode_keepalive(std::string_view body) {
  // A stream that carries one line.
  const auto line = body.substr(0, body.find('\n'));
  return with_object(line, [](const json::object& o) -> Result<LeaseInfo> {
    Fields f(o);
    if (const auto* error = f.object("error")) {
      Fields e(*error);
      const auto code = static_cast<int>(e.number("grpc_code"));
      const auto message = e.string("message");
      return tl::unexpected(refusal_of(code, message).error);
    }
    const auto* result = f.object("result");
    if (!result) return fail(Errc::invalid, "answer: keepalive without a result");
    Fields r(*result);
    LeaseInfo l;
    l.id = r.number("ID");
    l.ttl_s = l.granted_ttl_s = r.number("TTL");
    if (!r.ok()) return r.fault();
    if (l.ttl_s <= 0) return fail(Errc::not_found, "the lease is gone");
    return l;
  });
}

Result<LeaseInfo> decode_time_to_live(std::string_view body) {
  return with_object(body, [](const json::object& o) -> Result<LeaseInfo> {
    Fields f(o);
    LeaseInfo l;
    l.id = f.number("ID");
    l.ttl_s = f.number("TTL");
    l.granted_ttl_s = f.number("grantedTTL");
    static const json::array kNone;
    const auto* keys = f.array("keys");
    if (!f.ok()) return f.fault();
    for (const auto& k : keys ? *keys : kNone) {
      auto key = k.is_string() ? wire::base64_decode(view(k.get_string())) : fail(Errc::invalid, "not a string");
      if (!key) return fail(Errc::invalid, "answer: keys of the lease: {}", key.error().what);
      l.keys.push_back(std::move(*key));
    }
    return l;
  });
}

Result<ServerStatus> decode_status(std::string_view body) {
  return with_object(body, [](const json::object& o) -> Result<ServerStatus> {
    Fields f(o);
    ServerStatus s;
    s.version = f.string("version");
    s.raft_index = f.number("raftAppliedIndex");
    const auto* header = f.object("header");
    if (!f.ok()) return f.fault();
    if (!header) return fail(Errc::invalid, "answer: status without a header (is this etcd?)");
    Fields h(*header);
    s.cluster_id = h.unsigned_number("cluster_id");
    s.member_id = h.unsigned_number("member_id");
    s.revision = h.number("revision");
    if (!h.ok()) return h.fault();
    if (s.cluster_id == 0) return fail(Errc::invalid, "answer: status without a cluster id (is this etcd?)");
    return s;
  });
}

Result<std::string> decode_login(std::string_view body) {
  return with_object(body, [](const json::object& o) -> Result<std::string> {
    Fields f(o);
    auto token = f.string("token");
    if (!f.ok() || token.empty()) return fail(Errc::invalid, "answer: no token");
    for (char c : token)
      if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f) return fail(Errc::invalid, "answer: token unfit");
    return token;
  });
}

Result<WatchLine> decode_watch_line(std::string_view line) {
  return with_object(line, [](const json::object& o) -> Result<WatchLine> {
    Fields f(o);
    if (const auto* error = f.object("error")) {
      Fields e(*error);
      const auto code = static_cast<int>(e.number("grpc_code"));
      const auto message = e.string("message");
      return tl::unexpected(refusal_of(code, message).error);
    }
    const auto* result = f.object("result");
    if (!result) return fail(Errc::invalid, "watch: a line without a result");
    Fields r(*result);
    WatchLine w;
    w.created = r.flag("created");
    w.canceled = r.flag("canceled");
    w.compacted_at = r.number("compact_revision");
    w.reason = shown(r.string("cancel_reason"), 300);
    w.batch.revision = header_revision(r);
    static const json::array kNone;
    const auto* events = r.array("events");
    if (!r.ok()) return r.fault();
    for (const auto& v : events ? *events : kNone) {
      if (!v.is_object()) return fail(Errc::invalid, "watch: an event is not an object");
      Fields e(v.get_object());
      Event event;
      const auto type = e.string("type");
      if (type != "" && type != "PUT" && type != "DELETE") e.bad("type", "is unknown");
      if (type == "DELETE") event.type = Event::Type::del;
      const auto* kv = e.find("kv");
      if (!kv) e.bad("kv", "is missing");
      if (!e.ok()) return e.fault();
      auto now = kv_of(*kv);
      if (!now) return tl::unexpected(now.error());
      event.kv = std::move(*now);
      if (const auto* prev = e.find("prev_kv")) {
        auto before = kv_of(*prev);
        if (!before) return tl::unexpected(before.error());
        event.prev = std::move(*before);
      }
      w.batch.events.push_back(std::move(event));
    }
    return w;
  });
}

Refusal refusal_of(int grpc_code, std::string_view message) {
  Refusal r;
  r.error.what = message.empty() ? fmt::format("etcd refused with code {}", grpc_code) : shown(message, 300);
  auto& code = r.error.code;
  switch (grpc_code) {
    case kInvalidArgument:
      code = Errc::invalid;
      if (has(message, "request is too large")) code = Errc::exhausted;
      if (has(message, "authentication failed")) code = Errc::no_permission;
      if (has(message, "user name is empty") || has(message, "revision of auth store is old") ||
          has(message, "revision in header is old")) {
        code = Errc::no_permission;
        r.log_in = true;
      }
      break;
    case kNotFound:
      code = Errc::not_found;
      break;
    case kAlreadyExists:
      code = Errc::exists;
      break;
    case kPermissionDenied:
      code = Errc::no_permission;
      r.no_rights = true;
      break;
    case kUnauthenticated:
      code = Errc::no_permission;
      r.log_in = true;
      break;
    case kFailedPrecondition:
      code = has(message, "already exists")                  ? Errc::exists
             : has(message, "authentication is not enabled") ? Errc::unsupported
                                                             : Errc::invalid;
      break;
    case kOutOfRange:
      code = has(message, "compacted") ? Errc::compacted : Errc::invalid;
      break;
    case kResourceExhausted:
      code = has(message, "too many requests") ? Errc::busy : Errc::exhausted;
      break;
    case kUnimplemented:
      code = Errc::unsupported;
      break;
    case kDeadlineExceeded:
      code = Errc::timeout;
      r.elsewhere = true;
      break;
    case kDataLoss:
      code = Errc::corrupt;
      r.elsewhere = true;
      break;
    default:  // canceled, unknown, aborted, internal, unavailable: "no leader", "server stopped", "request timed out"
      code = Errc::unavailable;
      r.elsewhere = true;
      // The member's first look, before it proposes anything ("request timed out" comes after).
      r.not_done = has(message, "no leader");
  }
  return r;
}

Refusal decode_refusal(unsigned status, std::string_view body) {
  const auto o = parse_object(body);
  std::string message;
  std::int64_t code = 0;
  if (o) {
    Fields f(*o);
    message = f.string("message");
    if (message.empty()) message = f.string("error");
    code = f.number("code");
  }
  if (code > 0) return refusal_of(static_cast<int>(code), message);
  Refusal r;
  // etcd 3.4 with --client-cert-auth and authentication on, to every request, the log-in too; plain text.
  if (status == 400 && has(body, "CommonName of client sending a request against gateway")) {
    r.error = {
        Errc::no_permission,
        "etcd has authentication enabled and then refuses certificates with a CommonName at its JSON gateway: give "
        "this node one without (an alternative name is enough), and set [datastore] username and password_file"};
    return r;
  }
  r.error.what = fmt::format("HTTP {} {}", status, shown(message, 300));
  if (message.empty()) r.error.what = fmt::format("HTTP {} (is this etcd's v3 gateway?)", status);
  r.error.code = status == 401 || status == 403 ? Errc::no_permission
                 : status == 404                ? Errc::unsupported
                 : status == 413                ? Errc::exhausted
                 : status >= 500                ? Errc::unavailable
                                                : Errc::invalid;
  r.log_in = status == 401;
  r.elsewhere = status >= 500;
  return r;
}

Refusal refusal_of_reason(std::string_view reason) {
  static constexpr std::pair<std::string_view, int> kNames[] = {
      {"Unauthenticated", kUnauthenticated},     {"PermissionDenied", kPermissionDenied},
      {"InvalidArgument", kInvalidArgument},     {"OutOfRange", kOutOfRange},
      {"ResourceExhausted", kResourceExhausted}, {"Unavailable", kUnavailable}};
  for (const auto& [name, code] : kNames)
    if (has(reason, fmt::format("code = {}", name))) return refusal_of(code, reason);
  if (has(reason, "permission denied")) return refusal_of(kPermissionDenied, reason);
  if (has(reason, "compacted")) return refusal_of(kOutOfRange, reason);
  if (has(reason, "no leader")) return refusal_of(kUnavailable, reason);
  return refusal_of(kInvalidArgument, reason);
}

}  // namespace calico::store::etcd
