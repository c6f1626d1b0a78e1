#include "core/store/etcd/json.hpp"

#include <boost/json.hpp>
#include <charconv>

#include "core/wire/base64.hpp"

namespace calico::store::etcd {
namespace json = boost::json;
namespace {

constexpr std::size_t kLineBytes = 1U << 20;

// ---- reading

tl::unexpected<Fault> bad(std::string message) {
  return tl::unexpected<Fault>(Fault{400, kInvalidArgument, std::move(message)});
}

Parsed<json::object> parse_object(std::string_view body) {
  if (body.find_first_not_of(" \t\r\n") == body.npos) return json::object{};  // as etcd: no body, all defaults
  boost::system::error_code ec;
  auto v = json::parse(json::string_view(body.data(), body.size()), ec);
  if (ec) return bad("not JSON: " + ec.message());
  if (v.is_null()) return json::object{};
  if (!v.is_object()) return bad("not a JSON object");
  return std::move(v.get_object());
}

/// The fields of one message. The first fault sticks; ok() tells once at the end.
class Fields {
 public:
  explicit Fields(const json::object& o) : o_(o) {}

  const json::value* find(std::string_view snake) {
    const auto* v = o_.if_contains(json::string_view(snake.data(), snake.size()));
    if (!v) {
      std::string camel;
      for (std::size_t i = 0; i < snake.size(); ++i) {
        if (snake[i] == '_' && i + 1 < snake.size())
          camel += static_cast<char>(std::toupper(static_cast<unsigned char>(snake[++i])));
        else
          camel += snake[i];
      }
      v = o_.if_contains(camel);
    }
    return v && !v->is_null() ? v : nullptr;
  }
  void bytes(std::string_view name, std::string& out) {
    const auto* v = find(name);
    if (!v) return;
    if (!v->is_string()) return set(name, "is not a string");
    auto decoded = wire::base64_decode(std::string_view(v->get_string().data(), v->get_string().size()));
    if (!decoded) return set(name, decoded.error().what);
    out = std::move(*decoded);
  }
  void text(std::string_view name, std::string& out) {
    const auto* v = find(name);
    if (!v) return;
    if (!v->is_string()) return set(name, "is not a string");
    out.assign(v->get_string().data(), v->get_string().size());
  }
  void number(std::string_view name, std::int64_t& out) {
    const auto* v = find(name);
    if (!v) return;
    if (v->is_int64()) {
      out = v->get_int64();
    } else if (v->is_string()) {
      const auto& s = v->get_string();
      const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), out);
      if (ec != std::errc{} || end != s.data() + s.size()) set(name, "is not a 64-bit number");
    } else {
      set(name, "is not a 64-bit number");
    }
  }
  void flag(std::string_view name, bool& out) {
    const auto* v = find(name);
    if (!v) return;
    if (!v->is_bool()) return set(name, "is not true or false");
    out = v->get_bool();
  }
  /// By name or number; `names` in the order of their numbers.
  template <class E, std::size_t N>
  void choice(std::string_view name, const std::pair<std::string_view, E> (&names)[N], E& out) {
    const auto* v = find(name);
    if (!v) return;
    if (v->is_int64() && v->get_int64() >= 0 && v->get_int64() < static_cast<std::int64_t>(N)) {
      out = names[v->get_int64()].second;
      return;
    }
    if (v->is_string())
      for (const auto& [text, e] : names)
        if (std::string_view(v->get_string().data(), v->get_string().size()) == text) {
          out = e;
          return;
        }
    set(name, "has an unknown value");
  }
  const json::object* object(std::string_view name) {
    const auto* v = find(name);
    if (!v) return nullptr;
    if (!v->is_object()) {
      set(name, "is not an object");
      return nullptr;
    }
    return &v->get_object();
  }
  const json::array* array(std::string_view name) {
    const auto* v = find(name);
    if (!v) return nullptr;
    if (!v->is_array()) {
      set(name, "is not an array");
      return nullptr;
    }
    return &v->get_array();
  }
  void set(std::string_view name, std::string_view what) {
    if (!fault_) fault_ = Fault{400, kInvalidArgument, fmt::format("{}: {}", name, what)};
  }
  const std::optional<Fault>& fault() const { return fault_; }

 private:
  const json::object& o_;
  std::optional<Fault> fault_;
};

template <class T>
Parsed<T> done(const Fields& f, T value) {
  if (f.fault()) return tl::unexpected<Fault>(*f.fault());
  return value;
}

constexpr std::pair<std::string_view, SortOrder> kSortOrders[] = {
    {"NONE", SortOrder::none}, {"ASCEND", SortOrder::ascend}, {"DESCEND", SortOrder::descend}};
constexpr std::pair<std::string_view, SortTarget> kSortTargets[] = {{"KEY", SortTarget::key},
                                                                    {"VERSION", SortTarget::version},
                                                                    {"CREATE", SortTarget::create},
                                                                    {"MOD", SortTarget::mod},
                                                                    {"VALUE", SortTarget::value}};
constexpr std::pair<std::string_view, Compare::Op> kCompareOps[] = {{"EQUAL", Compare::Op::equal},
                                                                    {"GREATER", Compare::Op::greater},
                                                                    {"LESS", Compare::Op::less},
                                                                    {"NOT_EQUAL", Compare::Op::not_equal}};
constexpr std::pair<std::string_view, Compare::Target> kCompareTargets[] = {{"VERSION", Compare::Target::version},
                                                                            {"CREATE", Compare::Target::create},
                                                                            {"MOD", Compare::Target::mod},
                                                                            {"VALUE", Compare::Target::value},
                                                                            {"LEASE", Compare::Target::lease}};

Parsed<RangeRequest> range_of(const json::object& o) {
  Fields f(o);
  RangeRequest r;
  f.bytes("key", r.key);
  f.bytes("range_end", r.range_end);
  f.number("limit", r.limit);
  f.number("revision", r.revision);
  f.choice("sort_order", kSortOrders, r.sort_order);
  f.choice("sort_target", kSortTargets, r.sort_target);
  f.flag("keys_only", r.keys_only);
  f.flag("count_only", r.count_only);
  f.number("min_mod_revision", r.min_mod_revision);
  f.number("max_mod_revision", r.max_mod_revision);
  f.number("min_create_revision", r.min_create_revision);
  f.number("max_create_revision", r.max_create_revision);
  return done(f, std::move(r));
}

Parsed<PutRequest> put_of(const json::object& o) {
  Fields f(o);
  PutRequest r;
  f.bytes("key", r.key);
  f.bytes("value", r.value);
  f.number("lease", r.lease);
  f.flag("prev_kv", r.prev_kv);
  f.flag("ignore_value", r.ignore_value);
  f.flag("ignore_lease", r.ignore_lease);
  return done(f, std::move(r));
}

Parsed<DeleteRequest> delete_of(const json::object& o) {
  Fields f(o);
  DeleteRequest r;
  f.bytes("key", r.key);
  f.bytes("range_end", r.range_end);
  f.flag("prev_kv", r.prev_kv);
  return done(f, std::move(r));
}

Parsed<Compare> compare_of(const json::value& v) {
  if (!v.is_object()) return bad("compare: not an object");
  Fields f(v.get_object());
  Compare c;
  f.bytes("key", c.key);
  f.choice("result", kCompareOps, c.op);
  f.choice("target", kCompareTargets, c.target);
  switch (c.target) {
    case Compare::Target::version:
      f.number("version", c.number);
      break;
    case Compare::Target::create:
      f.number("create_revision", c.number);
      break;
    case Compare::Target::mod:
      f.number("mod_revision", c.number);
      break;
    case Compare::Target::lease:
      f.number("lease", c.number);
      break;
    case Compare::Target::value:
      f.bytes("value", c.value);
      break;
  }
  f.bytes("range_end", c.range_end);
  return done(f, std::move(c));
}

Parsed<Op> op_of(const json::value& v) {
  if (!v.is_object()) return bad("operation: not an object");
  Fields f(v.get_object());
  const auto as_op = [](auto parsed) -> Parsed<Op> {
    if (!parsed) return tl::unexpected<Fault>(parsed.error());
    return Op(std::move(*parsed));
  };
  if (const auto* o = f.object("request_range")) return as_op(range_of(*o));
  if (const auto* o = f.object("request_put")) return as_op(put_of(*o));
  if (const auto* o = f.object("request_delete_range")) return as_op(delete_of(*o));
  if (f.find("request_txn")) return tl::unexpected<Fault>(unserved_fault("a transaction inside a transaction"));
  if (f.fault()) return tl::unexpected<Fault>(*f.fault());
  return bad("etcdserver: key not found");  // etcd's words for an operation that is none
}

// ---- writing

void put_bytes(std::string& out, std::string_view name, std::string_view value) {
  out += '"';
  out += name;
  out += "\":\"";
  out += wire::base64_encode(value);
  out += '"';
}

void put_header(std::string& out, const Identity& id, Revision revision) {
  fmt::format_to(std::back_inserter(out), R"("header":{{"cluster_id":"{}","member_id":"{}",)", id.cluster_id,
                 id.member_id);
  if (revision > 0) fmt::format_to(std::back_inserter(out), R"("revision":"{}",)", revision);
  out += R"("raft_term":"1"})";
}

void put_kv(std::string& out, const KeyValue& kv) {
  out += '{';
  put_bytes(out, "key", kv.key);
  const auto field = [&](std::string_view name, std::int64_t v) {
    if (v != 0) fmt::format_to(std::back_inserter(out), R"(,"{}":"{}")", name, v);
  };
  field("create_revision", kv.create_revision);
  field("mod_revision", kv.mod_revision);
  field("version", kv.version);
  if (!kv.value.empty()) {
    out += ',';
    put_bytes(out, "value", kv.value);
  }
  field("lease", kv.lease);
  out += '}';
}

template <class List>
void put_kvs(std::string& out, std::string_view name, const List& kvs) {
  if (kvs.empty()) return;
  fmt::format_to(std::back_inserter(out), R"(,"{}":[)", name);
  bool first = true;
  for (const auto& kv : kvs) {
    if (!first) out += ',';
    first = false;
    put_kv(out, kv);
  }
  out += ']';
}

/// The part after the header, each field with its comma.
void put_rest(std::string& out, const RangeResult& r) {
  put_kvs(out, "kvs", r.kvs);
  if (r.more) out += R"(,"more":true)";
  if (r.count != 0) fmt::format_to(std::back_inserter(out), R"(,"count":"{}")", r.count);
}
void put_rest(std::string& out, const PutResult& r) {
  if (!r.prev) return;
  out += R"(,"prev_kv":)";
  put_kv(out, *r.prev);
}
void put_rest(std::string& out, const DeleteResult& r) {
  if (r.deleted != 0) fmt::format_to(std::back_inserter(out), R"(,"deleted":"{}")", r.deleted);
  put_kvs(out, "prev_kvs", r.prev);
}

template <class R>
std::string answer(const Identity& id, const R& r) {
  std::string out = "{";
  put_header(out, id, r.revision);
  put_rest(out, r);
  out += '}';
  return out;
}

constexpr std::string_view kOpNames[] = {"response_range", "response_put", "response_delete_range"};

void put_watch_id(std::string& out, std::int64_t watch_id) {
  if (watch_id != 0) fmt::format_to(std::back_inserter(out), R"(,"watch_id":"{}")", watch_id);
}

const std::string& encoded(const Change& c, bool prev) {
  const auto with = prev && c.prev ? 1 : 0;
  std::call_once(c.encoded_once[with], [&] {
    auto& out = c.encoded[with];
    out = c.type == Event::Type::del ? R"({"type":"DELETE","kv":)" : R"({"kv":)";
    put_kv(out, *c.kv);
    if (with) {
      out += R"(,"prev_kv":)";
      put_kv(out, *c.prev);
    }
    out += '}';
  });
  return c.encoded[with];
}

}  // namespace

// ---- faults

Fault fault_of(const Error& e) {
  const auto says = [&](std::string_view text) { return e.what.find(text) != std::string::npos; };
  switch (e.code) {
    case Errc::compacted:
      return {400, kOutOfRange, "etcdserver: mvcc: required revision has been compacted"};
    case Errc::not_found:
      return {404, kNotFound, "etcdserver: requested lease not found"};
    case Errc::exists:
      return {412, kFailedPrecondition, "etcdserver: lease already exists"};
    case Errc::exhausted:
      if (says("request is too large")) return {400, kInvalidArgument, "etcdserver: request is too large"};
      return {429, kResourceExhausted, "etcdserver: mvcc: database space exceeded"};
    case Errc::invalid:
      if (says("future revision"))
        return {400, kOutOfRange, "etcdserver: mvcc: required revision is a future revision"};
      if (says("too large lease TTL")) return {400, kOutOfRange, "etcdserver: too large lease TTL"};
      for (const auto* text : {"key is not provided", "value is provided", "lease is provided", "key not found",
                               "duplicate key given in txn request", "too many operations in txn request"})
        if (says(text)) return {400, kInvalidArgument, fmt::format("etcdserver: {}", text)};
      return {400, kInvalidArgument, e.what};
    case Errc::busy:
      return {429, kResourceExhausted, "etcdserver: too many requests"};
    case Errc::closed:
    case Errc::canceled:
    case Errc::unavailable:
      return {503, kUnavailable, "etcdserver: server stopped"};
    case Errc::timeout:
      return {504, kDeadlineExceeded, "etcdserver: request timed out"};
    case Errc::no_permission:
      return {403, kPermissionDenied, "etcdserver: permission denied"};
    case Errc::unsupported:
      return {501, kUnimplemented, e.what};
    case Errc::conflict:
    case Errc::corrupt:
    case Errc::internal:
      break;
  }
  // What SQLite says names files of this host: not for the other side.
  return {500, kInternal, "etcdserver: internal error"};
}

Fault unserved_fault(std::string_view what) {
  return {501, kUnimplemented, fmt::format("{} is not served by the embedded datastore: use etcd", what)};
}

std::string to_json(const Fault& fault) {
  const json::object o{{"error", fault.message}, {"message", fault.message}, {"code", fault.code}};
  return json::serialize(o);
}

// ---- requests

namespace {
template <class T, class F>
Parsed<T> parse_with(std::string_view body, F f) {
  auto o = parse_object(body);
  if (!o) return tl::unexpected<Fault>(o.error());
  return f(*o);
}
}  // namespace

Parsed<RangeRequest> parse_range(std::string_view body) { return parse_with<RangeRequest>(body, range_of); }
Parsed<PutRequest> parse_put(std::string_view body) { return parse_with<PutRequest>(body, put_of); }
Parsed<DeleteRequest> parse_delete(std::string_view body) { return parse_with<DeleteRequest>(body, delete_of); }

Parsed<TxnRequest> parse_txn(std::string_view body) {
  auto o = parse_object(body);
  if (!o) return tl::unexpected<Fault>(o.error());
  Fields f(*o);
  TxnRequest txn;
  if (const auto* compares = f.array("compare"))
    for (const auto& v : *compares) {
      auto c = compare_of(v);
      if (!c) return tl::unexpected<Fault>(c.error());
      txn.compare.push_back(std::move(*c));
    }
  for (auto [name, branch] : {std::pair{"success", &txn.success}, std::pair{"failure", &txn.failure}})
    if (const auto* ops = f.array(name))
      for (const auto& v : *ops) {
        auto op = op_of(v);
        if (!op) return tl::unexpected<Fault>(op.error());
        branch->push_back(std::move(*op));
      }
  return done(f, std::move(txn));
}

Parsed<Revision> parse_compaction(std::string_view body) {
  return parse_with<Revision>(body, [](const json::object& o) {
    Fields f(o);
    Revision r = 0;
    f.number("revision", r);
    return done(f, r);  // "physical" only asks to wait for what we do at once
  });
}

Parsed<LeaseCall> parse_lease(std::string_view body) {
  return parse_with<LeaseCall>(body, [](const json::object& o) {
    Fields f(o);
    LeaseCall c;
    f.number("ID", c.id);
    f.number("TTL", c.ttl_s);
    f.flag("keys", c.keys);
    return done(f, c);
  });
}

Parsed<bool> parse_nothing(std::string_view body) {
  return parse_with<bool>(body, [](const json::object&) -> Parsed<bool> { return true; });
}

Parsed<AdminCall> parse_admin(std::string_view body) {
  return parse_with<AdminCall>(body, [](const json::object& o) {
    static constexpr std::pair<std::string_view, AdminCall::Action> kActions[] = {
        {"GET", AdminCall::Action::get},
        {"ACTIVATE", AdminCall::Action::activate},
        {"DEACTIVATE", AdminCall::Action::deactivate}};
    static constexpr std::pair<std::string_view, int> kAlarms[] = {{"NONE", 0}, {"NOSPACE", 1}, {"CORRUPT", 2}};
    Fields f(o);
    AdminCall c;
    std::string text;
    std::int64_t number = 0;
    int alarm = 0;
    f.text("name", c.name);
    for (const auto* name : {"user", "role", "password"}) f.text(name, text);
    f.number("ID", c.id);
    for (const auto* name : {"memberID", "targetID"}) f.number(name, number);
    f.choice("action", kActions, c.action);
    f.choice("alarm", kAlarms, alarm);
    return done(f, std::move(c));
  });
}

Parsed<WatchCall> parse_watch(std::string_view body) {
  auto o = parse_object(body);
  if (!o) return tl::unexpected<Fault>(o.error());
  Fields outer(*o);
  const auto* create = outer.object("create_request");
  if (outer.fault()) return tl::unexpected<Fault>(*outer.fault());
  if (!create) return bad("watch: create_request is missing");
  Fields f(*create);
  WatchCall call;
  // etcd tells progress only to those who ask; so does the gateway.
  call.request.progress_notify = false;
  f.bytes("key", call.request.key);
  f.bytes("range_end", call.request.range_end);
  f.number("start_revision", call.request.start_revision);
  f.flag("prev_kv", call.request.prev_kv);
  f.flag("progress_notify", call.request.progress_notify);
  f.number("watch_id", call.watch_id);
  if (const auto* filters = f.array("filters"))
    for (const auto& v : *filters) {
      if (v == "NOPUT" || v == 0)
        call.no_put = true;
      else if (v == "NODELETE" || v == 1)
        call.no_delete = true;
      else
        f.set("filters", "has an unknown value");
    }
  return done(f, std::move(call));
}

// ---- answers

std::string to_json(const Identity& id, const RangeResult& r) { return answer(id, r); }
std::string to_json(const Identity& id, const PutResult& r) { return answer(id, r); }
std::string to_json(const Identity& id, const DeleteResult& r) { return answer(id, r); }

std::string to_json(const Identity& id, const TxnResult& r) {
  std::string out = "{";
  put_header(out, id, r.revision);
  if (r.succeeded) out += R"(,"succeeded":true)";
  if (!r.responses.empty()) {
    out += R"(,"responses":[)";
    bool first = true;
    for (const auto& response : r.responses) {
      if (!first) out += ',';
      first = false;
      const auto revision = std::visit([](const auto& x) { return x.revision; }, response);
      fmt::format_to(std::back_inserter(out), R"({{"{}":{{"header":{{"revision":"{}"}})", kOpNames[response.index()],
                     revision);
      std::visit([&](const auto& x) { put_rest(out, x); }, response);
      out += "}}";
    }
    out += ']';
  }
  out += '}';
  return out;
}

std::string header_json(const Identity& id, Revision revision) {
  std::string out = "{";
  put_header(out, id, revision);
  out += '}';
  return out;
}

std::string grant_json(const Identity& id, Revision revision, const LeaseInfo& lease) {
  std::string out = "{";
  put_header(out, id, revision);
  fmt::format_to(std::back_inserter(out), R"(,"ID":"{}","TTL":"{}"}})", lease.id, lease.ttl_s);
  return out;
}

std::string keepalive_json(const Identity& id, Revision revision, const LeaseInfo& lease) {
  std::string out = R"({"result":{)";
  put_header(out, id, revision);
  if (lease.id != 0) fmt::format_to(std::back_inserter(out), R"(,"ID":"{}")", lease.id);
  if (lease.ttl_s > 0) fmt::format_to(std::back_inserter(out), R"(,"TTL":"{}")", lease.ttl_s);
  out += "}}\n";
  return out;
}

std::string time_to_live_json(const Identity& id, Revision revision, const LeaseInfo& lease) {
  std::string out = "{";
  put_header(out, id, revision);
  if (lease.id != 0) fmt::format_to(std::back_inserter(out), R"(,"ID":"{}")", lease.id);
  if (lease.ttl_s != 0) fmt::format_to(std::back_inserter(out), R"(,"TTL":"{}")", lease.ttl_s);
  if (lease.granted_ttl_s != 0) fmt::format_to(std::back_inserter(out), R"(,"grantedTTL":"{}")", lease.granted_ttl_s);
  if (!lease.keys.empty()) {
    out += R"(,"keys":[)";
    for (std::size_t i = 0; i < lease.keys.size(); ++i)
      fmt::format_to(std::back_inserter(out), R"({}"{}")", i ? "," : "", wire::base64_encode(lease.keys[i]));
    out += ']';
  }
  out += '}';
  return out;
}

std::string leases_json(const Identity& id, Revision revision, const std::vector<LeaseId>& leases) {
  std::string out = "{";
  put_header(out, id, revision);
  if (!leases.empty()) {
    out += R"(,"leases":[)";
    for (std::size_t i = 0; i < leases.size(); ++i)
      fmt::format_to(std::back_inserter(out), R"({}{{"ID":"{}"}})", i ? "," : "", leases[i]);
    out += ']';
  }
  out += '}';
  return out;
}

std::string status_json(const Identity& id, const ServerStatus& s, std::uint64_t file_bytes) {
  std::string out = "{";
  put_header(out, id, s.revision);
  fmt::format_to(std::back_inserter(out),
                 R"(,"version":"{0}","dbSize":"{1}","leader":"{2}","raftIndex":"{3}","raftTerm":"1",)"
                 R"("raftAppliedIndex":"{3}","dbSizeInUse":"{1}"}})",
                 s.version, file_bytes, id.member_id, s.revision);
  return out;
}

// ---- watch lines

std::string created_line(const Identity& id, Revision revision, std::int64_t watch_id) {
  std::string out = R"({"result":{)";
  put_header(out, id, revision);
  put_watch_id(out, watch_id);
  out += R"(,"created":true}})";
  out += '\n';
  return out;
}

std::string refused_line(const Identity& id, Revision revision, std::string_view reason) {
  std::string out = R"({"result":{)";
  put_header(out, id, revision);
  out += R"(,"watch_id":"-1","created":true,"canceled":true,"cancel_reason":)";
  out += json::serialize(json::value(json::string_view(reason.data(), reason.size())));
  out += "}}\n";
  return out;
}

std::string compacted_line(const Identity& id, std::int64_t watch_id, Revision compacted) {
  std::string out = R"({"result":{)";
  put_header(out, id, 0);
  put_watch_id(out, watch_id);
  fmt::format_to(std::back_inserter(out), R"(,"canceled":true,"compact_revision":"{}"}}}})", compacted);
  out += '\n';
  return out;
}

std::string progress_line(const Identity& id, Revision revision, std::int64_t watch_id) {
  std::string out = R"({"result":{)";
  put_header(out, id, revision);
  put_watch_id(out, watch_id);
  out += "}}\n";
  return out;
}

std::vector<std::string> event_lines(const Identity& id, const WatchCall& call, const SharedBatch& batch) {
  std::vector<std::string> lines;
  std::string events;
  Revision last = 0;
  const auto flush = [&](Revision upto) {
    if (events.empty()) return;
    std::string line = R"({"result":{)";
    line.reserve(events.size() + 200);
    put_header(line, id, upto);
    put_watch_id(line, call.watch_id);
    line += R"(,"events":[)";
    line += events;
    line += "]}}\n";
    lines.push_back(std::move(line));
    events.clear();
  };
  for (const auto& c : batch.changes) {
    if (c->type == Event::Type::put ? call.no_put : call.no_delete) continue;
    if (c->kv->mod_revision != last && events.size() >= kLineBytes) flush(last);
    last = c->kv->mod_revision;
    if (!events.empty()) events += ',';
    events += encoded(*c, call.request.prev_kv);
  }
  flush(batch.revision);
  return lines;
}

}  // namespace calico::store::etcd
