#pragma once
/// The controller's side of membership: owns the CA, issues the datastore's own server certificate, answers nodes that
/// join and renew, and knows who is revoked. README.md says how it works as a whole.
///
///   auto authority = Authority::open(options, kv, hooks);          // makes the CA at first use
///   listen with authority->server_files()
///   gateway.set_front(authority->front());     // join and renew, and 401 for whoever may nothing else
///   … every minute: co_await authority->maintain();
///
/// Paths, JSON both ways: POST /calico-node/v1/join {id, secret, name, csr} and, over mutual TLS, POST
/// /calico-node/v1/renew {csr}: {name, serial, certificate, ca, not_after}. GET /calico-node/v1/member: who the
/// controller takes the peer for. Faults: {"error": "one line"} with 400, 401, 403, 404, 405, 409, 413, 429 or 503.
///
/// Thread: open(): any, before the loop serves; all else in the server's loop. Owns: the CA's key, in memory and in
/// `<pki>/ca/ca.key`. Errors: open: those of the files, one line with what to do; a CA that is there but cannot be used
/// is never replaced by a new one, which would lock every node out.
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/http/message.hpp"
#include "core/membership/registry.hpp"
#include "core/store/etcd/gateway.hpp"
#include "core/store/kv.hpp"

namespace calico::membership {

using http::awaitable;

inline constexpr std::string_view kPaths = "/calico-node/v1/";

struct AuthorityOptions {
  std::string pki_dir;  ///< <state_dir>/pki
  std::string ca_file;  ///< with ca_key_file: a CA of the operator's; empty = <pki>/ca, made at first use
  std::string ca_key_file;
  bool serve_own = true;  ///< issue <pki>/server; else the listener has files of the operator's
  std::string own_name;
  std::vector<std::string> server_names;  ///< names and addresses of the listener beside own_name and localhost
  std::vector<std::string> admins;
  std::chrono::seconds life = std::chrono::hours(24 * 90);  ///< of certificates
  const Clock* clock = nullptr;                             ///< nullptr = the system's
};

struct AuthorityHooks {
  /// Something an operator's log should hold: "membership.joined", with name, serial and the peer's address.
  std::function<void(std::string_view id, const std::string& name, const std::string& serial, const std::string& peer)>
      event;
  /// http::Server::close_peers.
  std::function<std::size_t(const std::function<bool(const http::Peer&)>&)> close_peers;
  /// The files of server_files() were replaced: http::Server::reload_tls.
  std::function<Status()> server_certificate_changed;
};

class Authority {
 public:
  /// `kv` was opened with kMembershipSchema, on this state.db.
  [[nodiscard]] static Result<std::unique_ptr<Authority>> open(AuthorityOptions options, std::shared_ptr<store::Kv> kv,
                                                               const std::string& state_db, AuthorityHooks hooks);
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  /// For the listener, with ClientCertificate::optional. Without serve_own only ca_file is set.
  http::TlsFiles server_files() const;
  const std::string& ca_hash() const;

  /// Not beyond the life of this object.
  store::etcd::GatewayFront front();
  static bool owns(std::string_view path) { return path.starts_with(kPaths); }
  [[nodiscard]] awaitable<http::Response> handle(http::Request request);
  /// Why this peer gets nothing but `join`: TLS without a certificate, or with one that is revoked or over. nullopt for
  /// all others, and for peers without TLS, whom the listener's address vouches for.
  std::optional<std::string> refusal(const http::Peer& peer) const;

  [[nodiscard]] awaitable<Result<Token>> make_token(std::string name, std::chrono::seconds ttl);
  [[nodiscard]] awaitable<Result<std::vector<TokenRow>>> tokens();
  [[nodiscard]] awaitable<Status> drop_token(std::string id);
  [[nodiscard]] awaitable<Result<std::vector<CertificateRow>>> certificates();
  /// The serial numbers; empty: the name had no valid certificate. Its connections are closed when this returns.
  [[nodiscard]] awaitable<Result<std::vector<std::string>>> revoke(std::string name);

  /// Renews the server's certificate when two thirds of its life are over, closes connections whose certificate has
  /// ended, forgets what is long over.
  [[nodiscard]] awaitable<Status> maintain();

 private:
  struct Impl;
  explicit Authority(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace calico::membership
