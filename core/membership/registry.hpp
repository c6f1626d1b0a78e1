#pragma once
/// Who is a member, in state.db: tokens, certificates issued, serial numbers revoked. Plain SQL and rules; the caller
/// gives the connection, the CA and the time, and runs each function in one transaction (Kv::txn_with).
///
///   auto issued = registry::join(scope.db(), rules, {.id = …, .secret = …, .name = "compute-1", .csr = …});
///
/// Thread: the connection's. Errors: invalid (a name, a request), no_permission (the token), conflict (somebody has
/// that name), exhausted (bounds), not_found; SQLite's. A function that fails has changed nothing that stays.
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/http/certificates.hpp"
#include "core/membership/token.hpp"
#include "core/store/db.hpp"

namespace calico::membership {

extern const store::Schema kMembershipSchema;

/// What the controller decides by.
struct Rules {
  http::KeyPair ca;  ///< secret
  std::string ca_hash;
  std::string own_name;             ///< the controller's: nobody joins as it
  std::vector<std::string> admins;  ///< nobody joins as one of these either
  std::chrono::seconds life{};      ///< of a node's certificate
  WallTime now;
};

struct Issued {
  std::string name;
  std::string serial;
  std::string pem;
  WallTime not_after;
  bool again = false;  ///< the answer to a repeated question: nothing new was made
};

struct TokenRow {
  std::string id;
  std::string name;  ///< empty: for any name that has no certificate
  WallTime expires;
  std::string used_by;
};
struct CertificateRow {
  std::string name;
  std::string serial;
  WallTime not_before;
  WallTime not_after;
  bool revoked = false;
};

namespace registry {

struct JoinCall {
  std::string id;
  std::string secret;
  std::string name;
  std::string csr;
};
struct RenewCall {
  std::string name;    ///< of the certificate that asks
  std::string serial;  ///< its own
  WallTime not_after;  ///< its end
  std::string csr;
};

/// `name` empty: for any node. At most kMaxTokens at a time.
[[nodiscard]] Result<Token> make_token(store::Db& db, const Rules& rules, const std::string& name,
                                       std::chrono::seconds ttl);
[[nodiscard]] Result<std::vector<TokenRow>> tokens(store::Db& db, WallTime now);
[[nodiscard]] Status drop_token(store::Db& db, const std::string& id);

[[nodiscard]] Result<Issued> join(store::Db& db, const Rules& rules, const JoinCall& call);
[[nodiscard]] Result<Issued> renew(store::Db& db, const Rules& rules, const RenewCall& call);
/// A certificate of the name that was seen on a connection.
struct Seen {
  std::string serial;
  WallTime not_after;
};
/// Every certificate of the name that is still valid, those seen included, and the name's tokens. The serial numbers;
/// empty: it had none.
[[nodiscard]] Result<std::vector<std::string>> revoke(store::Db& db, const std::string& name,
                                                      const std::vector<Seen>& seen, WallTime now);

/// Valid ones and those that ended within the last month, by name and end.
[[nodiscard]] Result<std::vector<CertificateRow>> certificates(store::Db& db, WallTime now);
[[nodiscard]] Result<std::set<std::string>> revoked_serials(store::Db& db);
/// Drops what nobody needs any more: long ended certificates, tokens and revocations.
[[nodiscard]] Status prune(store::Db& db, WallTime now);

inline constexpr int kMaxTokens = 1000;
inline constexpr int kMaxCertificatesOfName = 16;

}  // namespace registry
}  // namespace calico::membership
