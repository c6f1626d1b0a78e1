#pragma once
/// A real etcd cluster (Debian's etcd 3.4) for one test: each member in a network namespace of its own, all on one
/// bridge in the namespace `fabric`, where the agents live too. Members are killed, cut off, restarted, wiped and
/// restored from a backup; authentication and TLS are the test's choice.
///
///   NEEDS_ETCD_CLUSTER();
///   EtcdCluster cluster;                       // three members, a leader elected
///   cluster.fabric().enter();                  // in the thread that connects
///   use(cluster.endpoints());
///   cluster.kill(cluster.leader());
///
/// Thread: the test's. Owns: namespaces, processes (ended by their pid, at the latest with the test's process), files.
/// Errors: throws with etcd's output.
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "core/http/message.hpp"
#include "tests/support/certificates.hpp"
#include "tests/support/etcd.hpp"
#include "tests/support/netns.hpp"
#include "tests/support/temp_dir.hpp"
#include "tests/support/wait.hpp"

namespace calico::test {

class EtcdCluster {
 public:
  struct Options {
    int members = 3;
    bool tls = false;              ///< clients need a certificate of pki()
    int token_ttl_s = 0;           ///< of a simple token not used meanwhile; 0 = etcd's 300
    std::string client_ca_file{};  ///< with tls: certificates of this CA are taken too
  };
  static constexpr const char* kRootPassword = "root-password";
  static std::string missing() {
    if (!Etcd::installed()) return "etcd is not installed (etcd-server)";
    if (::access("/usr/bin/etcdctl", X_OK) != 0) return "etcdctl is not installed (etcd-client)";
    return {};
  }

  EtcdCluster() : EtcdCluster(Options{}) {}
  explicit EtcdCluster(Options options) : options_(options) {
    fabric_.run("ip link add br0 type bridge && ip link set br0 up && ip addr add 10.79.0.254/24 dev br0");
    for (int i = 0; i < options_.members; ++i) {
      members_.push_back(std::make_unique<Member>(i));
      auto& m = *members_.back();
      attach(m.ns, "m" + std::to_string(i), m.ip + "/24");
      if (!options_.tls) continue;
      http::CertificateRequest request;
      request.name = m.name;
      request.ips = {*Ip::parse(m.ip)};
      m.files = pki_.issue(request);
    }
    if (options_.tls) root_files_ = pki_.issue("operator");
    if (options_.tls) trust();
    start_all();
  }
  ~EtcdCluster() {
    for (auto& m : members_) m->process.reset();
  }

  Netns& fabric() { return fabric_; }
  Certificates& pki() { return pki_; }
  int size() const { return options_.members; }
  /// A namespace more on the bridge: `ip` with its length on its interface eth0.
  void attach(const Netns& ns, const std::string& port, const std::string& ip) {
    veth(ns, "eth0", fabric_, port);
    fabric_.run("ip link set " + port + " master br0");
    ns.run("ip addr add " + ip + " dev eth0");
  }
  std::string url(int i) const { return scheme() + members_[i]->ip + ":2379"; }
  std::string urls() const {
    std::string out;
    for (int i = 0; i < size(); ++i) out += (i ? "," : "") + url(i);
    return out;
  }
  std::vector<http::Endpoint> endpoints() const {
    std::vector<http::Endpoint> out;
    for (int i = 0; i < size(); ++i) out.push_back(*http::Endpoint::parse(url(i)));
    return out;
  }
  int member_at(const std::string& endpoint) const {
    for (int i = 0; i < size(); ++i)
      if (url(i) == endpoint) return i;
    return -1;
  }

  // ---- accidents

  /// SIGKILL; the data stays.
  void kill(int i) { members_[i]->process.reset(); }
  void kill_all() {
    for (int i = 0; i < size(); ++i) kill(i);
  }
  void start(int i) { spawn(i, "new"); }
  void start_all() {
    for (int i = 0; i < size(); ++i)
      if (!members_[i]->process) spawn(i, "new");
    await_leader();
  }
  /// No packet reaches it or leaves it, and nobody is told.
  void cut_off(int i) { fabric_.run("ip link set m" + std::to_string(i) + " nomaster"); }
  void rejoin(int i) { fabric_.run("ip link set m" + std::to_string(i) + " master br0"); }
  /// Its clients still reach it, the other members do not.
  void cut_from_members(int i) {
    members_[i]->ns.run(
        "nft 'table inet cut { chain in { type filter hook input priority 0; tcp dport 2380 drop; tcp sport 2380 drop; "
        "}; chain out { type filter hook output priority 0; tcp dport 2380 drop; tcp sport 2380 drop; }; }'");
  }
  void heal(int i) { members_[i]->ns.run("nft delete table inet cut"); }
  /// Every data directory is gone; the next start is an empty cluster with the same cluster id.
  void wipe_all() {
    kill_all();
    for (auto& m : members_) std::filesystem::remove_all(data(*m));
    auth_ = false;
  }
  /// The member loses its data directory and is replaced as etcd's manual says: removed, added, started empty.
  void replace(int i) {
    auto& m = *members_[i];
    kill(i);
    std::filesystem::remove_all(data(m));
    const auto asked = leader();
    const auto list = ctl_at(asked, "member list");
    std::istringstream in(list);
    std::string id;
    for (std::string line; std::getline(in, line);)
      if (line.find(", " + m.name + ",") != line.npos) id = line.substr(0, line.find(','));
    if (id.empty()) throw std::runtime_error("no member " + m.name + " in: " + list);
    ctl_at(asked, "member remove " + id);
    // "unhealthy cluster" until it has seen its other members for a while.
    std::string why;
    const auto added = eventually("the member added again", [&] {
      try {
        ctl_at(asked, "member add " + m.name + " --peer-urls=http://" + m.ip + ":2380");
        return true;
      } catch (const std::exception& e) {
        why = e.what();
        return why.find("unhealthy cluster") == why.npos;
      }
    });
    if (!added || !why.empty()) {
      const auto now = ctl_at(asked, "member list");
      if (now.find("http://" + m.ip + ":2380") == now.npos) throw std::runtime_error(why);
    }
    spawn(i, "existing");
    await_leader();
  }
  std::string backup() {
    const auto file = dir_.file("backup-" + std::to_string(backups_++) + ".db");
    ctl_at(leader(), "snapshot save " + file);
    return file;
  }
  /// All members begin anew from the file: its revision, and the cluster's id as before.
  void restore(const std::string& file) {
    kill_all();
    for (auto& m : members_) {
      std::filesystem::remove_all(data(*m));
      const auto out = shell("ETCDCTL_API=3 etcdctl snapshot restore " + file + " --name " + m->name +
                             " --initial-cluster " + initial_cluster() + " --initial-cluster-token " + kToken +
                             " --initial-advertise-peer-urls http://" + m->ip + ":2380 --data-dir " + data(*m));
      if (out.status != 0) throw std::runtime_error("restore: " + out.text);
    }
    start_all();
  }

  // ---- what an operator does

  /// etcdctl against member `i`, as root once authentication is on. Throws with its output.
  std::string ctl_at(int i, const std::string& command) {
    std::string full = "ETCDCTL_API=3 etcdctl --endpoints=" + url(i) + " --command-timeout=20s ";
    if (options_.tls)
      full += "--cacert=" + root_files_.ca_file + " --cert=" + root_files_.cert_file +
              " --key=" + root_files_.key_file + " ";
    if (auth_) full += std::string("--user=root:") + kRootPassword + " ";
    return fabric_.run(full + command);
  }
  std::string ctl(const std::string& command) { return ctl_at(leader(), command); }
  /// Authentication on, with the user root.
  void enable_auth() {
    ctl(std::string("user add root:") + kRootPassword);
    ctl("user grant-role root root");
    ctl("auth enable");
    auth_ = true;
  }
  /// A node's user with exactly the rights a node needs.
  void add_node_user(const std::string& name, const std::string& password, const std::string& region = "no-region") {
    ctl("role add node-" + name);
    ctl("role grant-permission node-" + name + " --prefix=true read /calico/");
    ctl("role grant-permission node-" + name + " --prefix=true readwrite /calico/felix/v2/" + region + "/host/" + name +
        "/");
    ctl("role grant-permission node-" + name + " readwrite /calico/resources/v3/projectcalico.org/nodes/" + name);
    ctl("user add " + name + ":" + password);
    ctl("user grant-role " + name + " node-" + name);
  }

  /// A client's certificate without a CommonName, the only kind etcd's gateway takes once authentication is on.
  http::TlsFiles nameless() {
    const auto at = [this](const char* file) { return dir_.file(std::string("nameless.") + file); };
    const auto ca_key = dir_.file("ca.key");
    if (auto s = http::write_file(ca_key, pki_.ca().key_pem, 0600); !s) throw std::runtime_error(s.error().what);
    const auto made = shell("openssl req -new -newkey rsa:2048 -nodes -keyout " + at("key") + " -out " + at("csr") +
                            " -subj /O=calico -addext subjectAltName=DNS:node && openssl x509 -req -in " + at("csr") +
                            " -CA " + pki_.ca_file() + " -CAkey " + ca_key + " -set_serial 4711 -days 2 -out " +
                            at("crt") + " -copy_extensions copy");
    if (made.status != 0) throw std::runtime_error("openssl: " + made.text);
    return {pki_.ca_file(), at("crt"), at("key")};
  }

  // ---- what is seen

  /// The member that leads; waits until there is one.
  int leader() {
    int found = -1;
    const auto led = eventually("a leader of the etcd cluster", [&] {
      for (int i = 0; i < size(); ++i)
        if (members_[i]->process && metric(i, "etcd_server_is_leader") == 1 &&
            metric(i, "etcd_server_has_leader") == 1 && !cut(i))
          found = i;
      return found >= 0;
    });
    if (!led) throw std::runtime_error(std::string(led.message()) + "\n" + log(0));
    return found;
  }
  void await_leader() {
    const auto served = eventually("every member with a leader", [&] {
      for (int i = 0; i < size(); ++i)
        if (members_[i]->process && !cut(i) && metric(i, "etcd_server_has_leader") != 1) return false;
      return true;
    });
    if (!served) throw std::runtime_error(std::string(served.message()) + "\n" + log(0));
  }
  /// One number of a member's /metrics, all its labels added up; -1 when it does not answer.
  double metric(int i, const std::string& name, const std::string& label = {}) const {
    const auto text = fabric_.try_run("curl -s -m 2 http://" + members_[i]->ip + ":2381/metrics");
    if (text.status != 0) return -1;
    double sum = 0;
    std::istringstream in(text.text);
    for (std::string line; std::getline(in, line);)
      if (line.starts_with(name) && (line[name.size()] == '{' || line[name.size()] == ' ') &&
          line.find(label) != line.npos)
        sum += std::stod(line.substr(line.rfind(' ') + 1));
    return sum;
  }
  /// Calls of clients a member has begun to answer since it started.
  double calls(int i) const { return metric(i, "grpc_server_started_total"); }
  std::string log(int i) const {
    std::ifstream in(dir_.file(members_[i]->name + ".log"));
    std::ostringstream out;
    out << in.rdbuf();
    const auto all = out.str();
    return all.size() > 4000 ? all.substr(all.size() - 4000) : all;
  }

 private:
  static constexpr const char* kToken = "calico-test";
  struct Member {
    explicit Member(int i)
        : ns("etcd" + std::to_string(i)), name("m" + std::to_string(i)), ip("10.79.0." + std::to_string(i + 1)) {}
    Netns ns;
    std::string name, ip;
    http::TlsFiles files;
    std::unique_ptr<Child> process;
  };

  void trust() {
    std::ofstream out(dir_.file("trusted.crt"));
    for (const auto& file : {pki_.ca_file(), options_.client_ca_file})
      if (!file.empty()) out << std::ifstream(file).rdbuf();
  }
  std::string scheme() const { return options_.tls ? "https://" : "http://"; }
  std::string data(const Member& m) const { return dir_.file(m.name); }
  std::string initial_cluster() const {
    std::string out;
    for (const auto& m : members_) out += (out.empty() ? "" : ",") + m->name + "=http://" + m->ip + ":2380";
    return out;
  }
  bool cut(int i) const {
    return members_[i]->ns.try_run("nft list table inet cut").status == 0 ||
           fabric_.run("ip -o link show m" + std::to_string(i)).find("master br0") == std::string::npos;
  }
  void spawn(int i, const std::string& state) {
    auto& m = *members_[i];
    // With the death of the test its members end, whatever killed it.
    std::string command = "exec setpriv --pdeathsig KILL /usr/bin/etcd --name " + m.name + " --data-dir " + data(m) +
                          " --listen-client-urls " + url(i) + " --advertise-client-urls " + url(i) +
                          " --listen-peer-urls http://" + m.ip + ":2380 --initial-advertise-peer-urls http://" + m.ip +
                          ":2380 --initial-cluster " + initial_cluster() + " --initial-cluster-token " + kToken +
                          " --initial-cluster-state " + state + " --listen-metrics-urls http://" + m.ip +
                          ":2381 --experimental-watch-progress-notify-interval 10s --logger zap --log-outputs stderr";
    if (options_.token_ttl_s > 0) command += " --auth-token-ttl " + std::to_string(options_.token_ttl_s);
    if (options_.tls)
      command += " --cert-file " + m.files.cert_file + " --key-file " + m.files.key_file + " --trusted-ca-file " +
                 dir_.file("trusted.crt") + " --client-cert-auth";
    m.process = std::make_unique<Child>(m.ns.spawn(command, dir_.file(m.name + ".log")));
  }

  const Options options_;
  TempDir dir_{"etcd-cluster"};
  Certificates pki_;
  Netns fabric_{"fabric"};
  http::TlsFiles root_files_;
  std::vector<std::unique_ptr<Member>> members_;
  bool auth_ = false;
  int backups_ = 0;
};

}  // namespace calico::test

/// First line of a test with a cluster.
#define NEEDS_ETCD_CLUSTER()                                                         \
  NEEDS_NETNS();                                                                     \
  if (const auto missing = ::calico::test::EtcdCluster::missing(); !missing.empty()) \
  GTEST_SKIP() << "SKIPPED: " << missing
