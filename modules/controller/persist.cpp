#include "modules/controller/persist.hpp"

#include <array>
#include <boost/json.hpp>

#include "modules/controller/input.hpp"

namespace calico::controller {

namespace {

constexpr store::Migration kMigrations[] = {
    {1,
     "CREATE TABLE neutron_network(id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL, body TEXT NOT NULL) STRICT;"
     "CREATE TABLE neutron_subnet(id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL, body TEXT NOT NULL) STRICT;"
     "CREATE TABLE neutron_port(id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL, body TEXT NOT NULL) STRICT;"
     "CREATE TABLE neutron_group(id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL, body TEXT NOT NULL) STRICT;"
     "CREATE TABLE neutron_rule(id TEXT NOT NULL PRIMARY KEY, project TEXT NOT NULL, body TEXT NOT NULL) STRICT;"
     "CREATE TABLE neutron_address(subnet TEXT NOT NULL, address TEXT NOT NULL, port TEXT NOT NULL,"
     " PRIMARY KEY(subnet, address)) STRICT, WITHOUT ROWID;"
     "CREATE INDEX neutron_address_port ON neutron_address(port);"
     "CREATE TABLE neutron_sequence(one INTEGER NOT NULL PRIMARY KEY CHECK(one = 1), number INTEGER NOT NULL) STRICT;"
     "INSERT INTO neutron_sequence(one, number) VALUES(1, 0);"},
    {2,
     "CREATE TABLE neutron_outbox(place INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, is_prefix INTEGER NOT NULL,"
     " resource INTEGER NOT NULL, once INTEGER NOT NULL, desired TEXT, write INTEGER NOT NULL) STRICT;"}};

struct Sql {
  std::string_view select, upsert, erase;
};
#define TABLE(name)                                                                                     \
  Sql {                                                                                                 \
    "SELECT id, project, body FROM " name " ORDER BY id",                                               \
        "INSERT INTO " name                                                                             \
        "(id, project, body) VALUES(?1, ?2, ?3) ON CONFLICT(id) DO UPDATE SET project = ?2, body = ?3", \
        "DELETE FROM " name " WHERE id = ?1"                                                            \
  }
constexpr std::array<Sql, 5> kSql{TABLE("neutron_network"), TABLE("neutron_subnet"), TABLE("neutron_port"),
                                  TABLE("neutron_group"), TABLE("neutron_rule")};
#undef TABLE

json::object common(const Resource& r) {
  json::object o{{"created", r.created}, {"updated", r.updated}, {"revision", r.revision}};
  if (!r.name.empty()) o["name"] = r.name;
  if (!r.description.empty()) o["description"] = r.description;
  return o;
}

template <class T>
void put_optional(json::object& o, std::string_view key, const std::optional<T>& v) {
  if (v) o[key] = *v;
}

/// Throws on anything unexpected (the JSON library's errors and these); load() turns that into Errc::corrupt.
struct Reader {
  const json::object& o;
  std::string text(std::string_view key) const {
    const auto* v = o.if_contains(key);
    return v ? std::string(v->as_string()) : std::string();
  }
  std::optional<std::string> optional_text(std::string_view key) const {
    const auto* v = o.if_contains(key);
    if (!v) return std::nullopt;
    return std::string(v->as_string());
  }
  std::optional<int> optional_int(std::string_view key) const {
    const auto* v = o.if_contains(key);
    if (!v) return std::nullopt;
    return static_cast<int>(v->as_int64());
  }
  bool flag(std::string_view key) const { return o.at(key).as_bool(); }
  std::int64_t number(std::string_view key) const { return o.at(key).as_int64(); }
  const json::array& list(std::string_view key) const { return o.at(key).as_array(); }
};

template <class T>
T value_or_throw(Result<T> r) {
  if (!r) throw std::runtime_error(r.error().what);
  return std::move(*r);
}
Ip read_ip(const json::value& v) { return value_or_throw(Ip::parse(v.as_string())); }

void read_common(Resource& r, const Reader& in) {
  r.name = in.text("name");
  r.description = in.text("description");
  r.created = in.number("created");
  r.updated = in.number("updated");
  r.revision = in.number("revision");
}

void read(Network& n, const Reader& in) {
  n.admin_up = in.flag("admin_up");
  n.shared = in.flag("shared");
  n.external = in.flag("external");
  n.port_security = in.flag("port_security");
  n.mtu = in.number("mtu");
  n.type = in.text("type");
  n.physical_network = in.optional_text("physical_network");
}

void read(Subnet& s, const Reader& in) {
  s.network = in.text("network");
  s.cidr = value_or_throw(parse_cidr(in.text("cidr"), false));
  if (auto gateway = in.optional_text("gateway")) s.gateway = value_or_throw(Ip::parse(*gateway));
  s.dhcp = in.flag("dhcp");
  for (const auto& v : in.list("dns")) s.dns.emplace_back(v.as_string());
  for (const auto& v : in.list("host_routes"))
    s.host_routes.push_back({std::string(v.as_array().at(0).as_string()), std::string(v.as_array().at(1).as_string())});
  for (const auto& v : in.list("pools")) s.pools.push_back({read_ip(v.as_array().at(0)), read_ip(v.as_array().at(1))});
  s.ra_mode = in.text("ra_mode");
  s.address_mode = in.text("address_mode");
}

void read(Port& p, const Reader& in) {
  p.network = in.text("network");
  p.mac = value_or_throw(Mac::parse(in.text("mac")));
  p.admin_up = in.flag("admin_up");
  p.device = in.text("device");
  p.owner = in.text("owner");
  for (const auto& v : in.list("fixed_ips"))
    p.fixed_ips.push_back({std::string(v.as_array().at(0).as_string()), read_ip(v.as_array().at(1))});
  for (const auto& v : in.list("pairs")) {
    AddressPair pair{value_or_throw(parse_cidr(std::string_view(v.as_array().at(0).as_string()), false)), std::nullopt};
    if (v.as_array().size() > 1) pair.mac = value_or_throw(Mac::parse(v.as_array().at(1).as_string()));
    p.pairs.push_back(pair);
  }
  for (const auto& v : in.list("groups")) p.groups.emplace_back(v.as_string());
  p.port_security = in.flag("port_security");
  p.host = in.text("host");
  p.vnic_type = in.text("vnic_type");
  p.vif_type = in.text("vif_type");
  p.profile = in.text("profile");
}

void read(SecurityGroup&, const Reader&) {}

void read(Rule& r, const Reader& in) {
  r.group = in.text("group");
  r.ingress = in.flag("ingress");
  r.ipv6 = in.flag("ipv6");
  r.protocol = in.optional_text("protocol");
  r.port_min = in.optional_int("port_min");
  r.port_max = in.optional_int("port_max");
  r.remote_prefix = in.optional_text("remote_prefix");
  r.remote_group = in.optional_text("remote_group");
  r.order = in.number("order");
}

template <class R>
Status load_table(store::Db& db, State& state) {
  auto q = db.query(kSql[static_cast<std::size_t>(kind_of<R>())].select);
  for (;;) {
    auto row = q.next();
    if (!row) return tl::unexpected(row.error());
    if (!*row) return {};
    R r;
    r.id = q.text(0);
    r.project = q.text(1);
    try {
      auto body = json::parse({q.text(2).data(), q.text(2).size()});
      Reader in{body.as_object()};
      read_common(r, in);
      read(r, in);
    } catch (const std::exception& e) {
      return fail(Errc::corrupt, "{}: row {} does not read: {}", db.path(), r.id, e.what());
    }
    state.put(std::move(r));
  }
}

template <class R>
Row row(const State& state, const std::string& id) {
  Row out{kind_of<R>(), id, {}, {}, {}};
  const R* r = state.find<R>(id);
  if (!r) return out;
  out.project = r->project;
  out.body = to_row(*r);
  if constexpr (std::is_same_v<R, Port>) {
    for (const auto& f : r->fixed_ips) out.addresses.emplace_back(f.subnet, f.ip.to_string());
  }
  return out;
}

}  // namespace

const store::Schema kNeutronSchema{"neutron", kMigrations};

std::string to_row(const Network& n) {
  auto o = common(n);
  o["admin_up"] = n.admin_up;
  o["shared"] = n.shared;
  o["external"] = n.external;
  o["port_security"] = n.port_security;
  o["mtu"] = n.mtu;
  o["type"] = n.type;
  put_optional(o, "physical_network", n.physical_network);
  return json::serialize(o);
}

std::string to_row(const Subnet& s) {
  auto o = common(s);
  o["network"] = s.network;
  o["cidr"] = s.cidr.to_string();
  if (s.gateway) o["gateway"] = s.gateway->to_string();
  o["dhcp"] = s.dhcp;
  json::array dns;
  for (const auto& d : s.dns) dns.emplace_back(d);
  o["dns"] = std::move(dns);
  json::array routes;
  for (const auto& r : s.host_routes) routes.push_back(json::array{r.destination, r.nexthop});
  o["host_routes"] = std::move(routes);
  json::array pools;
  for (const auto& p : s.pools) pools.push_back(json::array{p.first.to_string(), p.last.to_string()});
  o["pools"] = std::move(pools);
  if (!s.ra_mode.empty()) o["ra_mode"] = s.ra_mode;
  if (!s.address_mode.empty()) o["address_mode"] = s.address_mode;
  return json::serialize(o);
}

std::string to_row(const Port& p) {
  auto o = common(p);
  o["network"] = p.network;
  o["mac"] = p.mac.to_string();
  o["admin_up"] = p.admin_up;
  o["device"] = p.device;
  o["owner"] = p.owner;
  json::array fixed;
  for (const auto& f : p.fixed_ips) fixed.push_back(json::array{f.subnet, f.ip.to_string()});
  o["fixed_ips"] = std::move(fixed);
  json::array pairs;
  for (const auto& pair : p.pairs) {
    json::array a{pair.prefix.to_string()};
    if (pair.mac) a.emplace_back(pair.mac->to_string());
    pairs.push_back(std::move(a));
  }
  o["pairs"] = std::move(pairs);
  json::array groups;
  for (const auto& g : p.groups) groups.emplace_back(g);
  o["groups"] = std::move(groups);
  o["port_security"] = p.port_security;
  o["host"] = p.host;
  o["vnic_type"] = p.vnic_type;
  o["vif_type"] = p.vif_type;
  o["profile"] = p.profile;
  return json::serialize(o);
}

std::string to_row(const SecurityGroup& g) { return json::serialize(common(g)); }

std::string to_row(const Rule& r) {
  auto o = common(r);
  o["group"] = r.group;
  o["ingress"] = r.ingress;
  o["ipv6"] = r.ipv6;
  put_optional(o, "protocol", r.protocol);
  put_optional(o, "port_min", r.port_min);
  put_optional(o, "port_max", r.port_max);
  put_optional(o, "remote_prefix", r.remote_prefix);
  put_optional(o, "remote_group", r.remote_group);
  o["order"] = r.order;
  return json::serialize(o);
}

std::vector<Row> rows_of(const State& state, const std::vector<Touched>& touched) {
  std::vector<Row> rows;
  for (const auto& t : touched) {
    switch (t.kind) {
      case Kind::network:
        rows.push_back(row<Network>(state, t.id));
        break;
      case Kind::subnet:
        rows.push_back(row<Subnet>(state, t.id));
        break;
      case Kind::port:
        rows.push_back(row<Port>(state, t.id));
        break;
      case Kind::group:
        rows.push_back(row<SecurityGroup>(state, t.id));
        break;
      case Kind::rule:
        rows.push_back(row<Rule>(state, t.id));
        break;
    }
  }
  return rows;
}

Status write_rows(store::Db& db, const std::vector<Row>& rows, std::int64_t sequence) {
  if (auto s = db.run("UPDATE neutron_sequence SET number = ?1 WHERE one = 1 AND number = ?1 - 1", sequence); !s)
    return s;
  if (db.changes() != 1) return fail(Errc::conflict, "write {} does not follow the last one kept", sequence);
  // Addresses first go, then come: one may move from one port to another in one request.
  for (const auto& r : rows) {
    if (r.kind != Kind::port) continue;
    if (auto s = db.run("DELETE FROM neutron_address WHERE port = ?1", r.id); !s) return s;
  }
  for (const auto& r : rows) {
    const auto& sql = kSql[static_cast<std::size_t>(r.kind)];
    if (r.body.empty()) {
      if (auto s = db.run(sql.erase, r.id); !s) return s;
      continue;
    }
    if (auto s = db.run(sql.upsert, r.id, r.project, r.body); !s) return s;
    for (const auto& [subnet, address] : r.addresses) {
      if (auto s =
              db.run("INSERT INTO neutron_address(subnet, address, port) VALUES(?1, ?2, ?3)", subnet, address, r.id);
          !s)
        return s;
    }
  }
  return {};
}

Result<Loaded> load(store::Db& db) {
  Loaded out;
  auto sequence = db.number("SELECT number FROM neutron_sequence WHERE one = 1");
  if (!sequence) return tl::unexpected(sequence.error());
  out.sequence = *sequence;
  auto outbox = Outbox::load(db);
  if (!outbox) return tl::unexpected(outbox.error());
  out.outbox = std::move(*outbox);
  if (auto s = load_table<Network>(db, out.state); !s) return tl::unexpected(s.error());
  if (auto s = load_table<Subnet>(db, out.state); !s) return tl::unexpected(s.error());
  if (auto s = load_table<SecurityGroup>(db, out.state); !s) return tl::unexpected(s.error());
  if (auto s = load_table<Rule>(db, out.state); !s) return tl::unexpected(s.error());
  if (auto s = load_table<Port>(db, out.state); !s) return tl::unexpected(s.error());
  return out;
}

}  // namespace calico::controller
