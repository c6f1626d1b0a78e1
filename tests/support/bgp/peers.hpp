#pragma once
/// BGP daemons in namespaces under one interface: what a session is, what a daemon announces and what its table holds
/// are written once and in one spelling, each daemon's class turns that into its configuration and back.
///
///   PeerLab lab("frr");                                   // a bridge; removed with all namespaces at the end of scope
///   auto& rr = lab.ours(1);                               // node n: 10.66.0.n and fd66::n
///   auto& d = lab.add(DaemonKind::frr, 3);
///   d.sessions = {{.name = "rr1", .local = lab.v4(3), .remote = lab.v4(1)}};
///   d.routes = {{.prefix = "10.100.3.1/32", .med = 7}};
///   d.start();
///   ASSERT_TRUE(eventually("session", [&] { return d.established("rr1"); })) << lab.explain();
///   EXPECT_EQ(d.table(), wanted);                         // winners learned by BGP, every attribute
///   EXPECT_EQ(d.paths(), wanted_paths);                   // the same of every path (RFC 7911)
///
/// A new capability is a flag in Traits (the daemon has it), a member of Session (ask for it) and a line in each class.
/// Owns: namespaces, processes (killed by pid), a folder of its own. Errors: exceptions with the tool's output; a
/// daemon that is not installed: missing() says which package.
#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "tests/support/netns.hpp"

namespace calico::test {

/// A route as every daemon shows it.
struct Row {
  std::string next_hop;  ///< the global one
  std::string as_path;   ///< "65010 65011", empty inside the AS
  std::string origin = "IGP";
  std::optional<std::uint32_t> local_pref, med;
  std::set<std::string> communities, ext_communities, large_communities;  ///< "64512:1", "rt:64512:1", "64512:1:2"
  std::string originator, clusters;
  auto operator<=>(const Row&) const = default;
};
std::ostream& operator<<(std::ostream& o, const Row& r);
using Table = std::map<std::string, Row>;
/// Several ways of one prefix, equal ones counted.
using Paths = std::map<std::string, std::multiset<Row>>;
/// What is missing, extra or different, a line each (at most 20), then "same" counts. For failure messages.
std::string difference(const Table& got, const Table& wanted);
std::string difference(const Paths& got, const Paths& wanted);
/// A path that a speaker holds.
struct Learned {
  std::string prefix;
  Row row;
  bool best = false;
};

struct Announcement {
  std::string prefix;
  std::string as_path = {};
  std::optional<std::uint32_t> local_pref = {}, med = {};
  std::set<std::string> communities = {}, ext_communities = {}, large_communities = {};
};

struct Session {
  std::string name, local, remote;
  std::uint32_t local_as = 64512, remote_as = 64512;
  bool ipv4 = true, ipv6 = true;
  std::string password = {};
  bool ttl_security = false;
  bool extended_messages = false;  ///< offered where it is an option
  bool client = false;             ///< whoever is at the other end gets what others say: this side is a reflector
  bool add_path = false;           ///< several paths of a prefix, both ways (RFC 7911)
  bool ipv6_next_hops = false;     ///< of IPv4 routes (RFC 8950); `local` is IPv6 then
  /// Seconds that the routes live on after a loss, and then as the last choice (RFC 9494; 0: not understood). BIRD 2
  /// only; ours has options.
  std::optional<int> restart_time = {}, long_lived = {};
  std::string ours = {};  ///< our speaker only: more options of `peer=`, "import,export"
};

enum class DaemonKind { ours, bird2, bird1, frr, gobgp };
std::string to_string(DaemonKind kind);
/// One session carries IPv4 and IPv6.
inline bool both_families(DaemonKind kind) { return kind != DaemonKind::bird1; }

/// What a daemon can do and what it offers (unasked, or asked by a member of Session), as measured.
struct Traits {
  bool enhanced_refresh = false;  ///< offered
  bool extended_messages = false;
  bool graceful_restart = true;
  /// Sets of attributes it can be configured with in one go; more is slow or impossible.
  std::size_t attribute_sets = 5000;
  bool shows_long_lists = true;  ///< false: prints the beginning of a thousand communities only
  bool ipv6_next_hops = true;    ///< RFC 8950
  bool own_routes_win = true;    ///< over what it learns, whatever the LOCAL_PREF
};

class Peer {
 public:
  Peer(const Netns& ns, std::filesystem::path folder, int node);
  virtual ~Peer() = default;
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  std::vector<Session> sessions;     ///< before start()
  std::vector<Announcement> routes;  ///< before start(); later announce()

  virtual const Traits& traits() const = 0;
  /// restarted: as one that was here a moment ago and kept forwarding (RFC 4724).
  virtual void start(bool restarted = false) = 0;
  /// All processes of the daemon, at once.
  void kill(int signal = SIGKILL);
  /// From now on exactly these.
  virtual void announce(std::vector<Announcement> all) = 0;
  /// Asks its peers for everything again (RFC 2918); false: it has no way to.
  virtual bool refresh() = 0;
  /// What it learned by BGP: the winners, and every path.
  Table table();
  Paths paths();
  virtual bool established(const std::string& session) = 0;
  /// How a route looks when it has left the daemon for a peer of its own or of a foreign AS (own AS not yet in front);
  /// nullopt: it does not leave.
  virtual std::optional<Row> sent(const Announcement& a, bool to_foreign_as) const;
  /// What a reflector of this kind makes of the route that it passes inside the AS, `own` or another's.
  virtual Row reflected(Row row, bool own) const;
  /// Sessions and the ends of the logs.
  virtual std::string explain() = 0;

  const Netns& ns() const { return ns_; }
  int node() const { return node_; }
  std::string v4() const { return "10.66.0." + std::to_string(node_); }
  std::string v6() const { return "fd66::" + std::to_string(node_); }

 protected:
  virtual std::vector<Learned> learned() = 0;
  /// Of its own routes, on the sessions it has.
  std::string next_hop(const std::string& prefix) const;
  std::string path(const std::string& what) const { return (folder_ / what).string(); }
  std::string logs() const;
  /// Starts a process; its output goes to `<name>.log`.
  void spawn(const std::string& name, const std::string& command);
  bool is_ours(const std::string& session) const;
  const std::filesystem::path folder_;
  const Netns& ns_;
  const int node_;
  std::map<std::string, Child> processes_;
};

/// Our engine (tests/bgp-speaker). Routes may have local_pref and med only.
class OurPeer : public Peer {
 public:
  using Peer::Peer;
  std::string options;  ///< more arguments: "cluster=1.2.3.4 kernel"
  const Traits& traits() const override;
  void start(bool restarted = false) override;
  void announce(std::vector<Announcement> all) override;
  bool refresh() override { return false; }
  bool established(const std::string& session) override;
  std::string explain() override;
  /// Routes sent on a session since it came up, repetitions included.
  long sent_on(const std::string& session);
  std::string birdc(const std::string& command);
  /// What the neighbour of a session said it can ("Enhanced refresh", "Extended message", …), one a line.
  std::string neighbor_capabilities(const std::string& session);
  void signal(int sig) { ::kill(processes_.at("speaker").pid(), sig); }

 protected:
  std::vector<Learned> learned() override;
};

/// Whole tables in BIRD's text, of BIRD 1.6, BIRD 2 and ours; routes of these protocols only.
std::vector<Learned> parse_bird_table(const std::string& text, const std::set<std::string>& protocols);

/// One bridge, a namespace for each speaker.
class PeerLab {
 public:
  explicit PeerLab(const std::string& label);
  ~PeerLab();
  PeerLab(const PeerLab&) = delete;
  PeerLab& operator=(const PeerLab&) = delete;

  static std::string v4(int n) { return "10.66.0." + std::to_string(n); }
  static std::string v6(int n) { return "fd66::" + std::to_string(n); }
  /// Empty, or which package is not here.
  static std::string missing(DaemonKind kind);

  OurPeer& ours(int node);
  Peer& add(DaemonKind kind, int node);
  Peer& at(int node) { return *peers_.at(node); }
  std::string explain();

 private:
  Netns& make_node(int node);
  std::filesystem::path folder_;
  std::unique_ptr<Netns> hub_;
  std::map<int, std::unique_ptr<Netns>> nodes_;
  std::map<int, std::unique_ptr<Peer>> peers_;
};

std::unique_ptr<Peer> make_bird(DaemonKind version, const Netns& ns, std::filesystem::path folder, int node);
std::unique_ptr<Peer> make_frr(const Netns& ns, std::filesystem::path folder, int node);
std::unique_ptr<Peer> make_gobgp(const Netns& ns, std::filesystem::path folder, int node);

inline bool is_v6(const std::string& address_or_prefix) { return address_or_prefix.find(':') != std::string::npos; }

}  // namespace calico::test
