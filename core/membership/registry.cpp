#include "core/membership/registry.hpp"

#include <algorithm>
#include <array>

#include "core/membership/x509.hpp"

namespace calico::membership {
namespace {

using store::Db;

constexpr std::array<store::Migration, 1> kMigrations{{{1, R"sql(
CREATE TABLE membership_token(
  id TEXT NOT NULL PRIMARY KEY,
  secret_hash TEXT NOT NULL,
  name TEXT NOT NULL,             -- '' = for any node
  expires_s INTEGER NOT NULL,
  used_by TEXT NOT NULL DEFAULT '',
  used_key TEXT NOT NULL DEFAULT '',
  serial TEXT NOT NULL DEFAULT '' -- of the certificate it was used for
) STRICT;
CREATE TABLE membership_certificate(
  serial TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  key_hash TEXT NOT NULL,
  pem TEXT NOT NULL,              -- '' = seen, not issued here
  not_before_s INTEGER NOT NULL,
  not_after_s INTEGER NOT NULL
) STRICT;
CREATE INDEX membership_certificate_name ON membership_certificate(name);
CREATE TABLE membership_revoked(
  serial TEXT NOT NULL PRIMARY KEY,
  name TEXT NOT NULL,
  revoked_s INTEGER NOT NULL,
  not_after_s INTEGER NOT NULL    -- after it the date refuses it, no list is needed
) STRICT;
)sql"}}};

/// A host's clock may be behind ours by so much when it looks at its new certificate.
constexpr std::chrono::minutes kSkew{5};
constexpr std::chrono::hours kKeepEnded{24 * 30};

std::int64_t seconds(WallTime t) {
  return std::chrono::duration_cast<std::chrono::seconds>(t.time_since_epoch()).count();
}
WallTime wall(std::int64_t s) { return WallTime(std::chrono::seconds(s)); }

constexpr const char* kNewToken = "make a new one on the controller: calico-node join token";

/// The newest certificate of this name and key that was issued here and is neither over, revoked nor `except`.
Result<std::optional<Issued>> issued_for(Db& db, const std::string& name, const std::string& key_hash,
                                         const std::string& except, WallTime now) {
  auto q = db.query(
      "SELECT c.serial, c.pem, c.not_after_s FROM membership_certificate c "
      "LEFT JOIN membership_revoked r ON r.serial = c.serial "
      "WHERE c.name = ?1 AND c.key_hash = ?2 AND c.serial <> ?3 AND c.pem <> '' AND c.not_after_s > ?4 "
      "AND r.serial IS NULL ORDER BY c.not_after_s DESC",
      name, key_hash, except, seconds(now));
  auto row = q.next();
  if (!row) return tl::unexpected(row.error());
  if (!*row) return std::optional<Issued>();
  return std::optional<Issued>(Issued{name, std::string(q.text(0)), std::string(q.text(1)), wall(q.integer(2)), true});
}

/// Those still good: not over, not revoked.
Result<std::int64_t> valid_certificates(Db& db, const std::string& name, WallTime now) {
  return db.number(
      "SELECT count(*) FROM membership_certificate c LEFT JOIN membership_revoked r ON r.serial = c.serial "
      "WHERE c.name = ?1 AND c.not_after_s > ?2 AND r.serial IS NULL",
      name, seconds(now));
}

/// Keeps a certificate that this file does not know (the CA's key was used elsewhere, or an older state.db was
/// restored), so that it can be revoked by name too.
Status adopt(Db& db, const std::string& name, const std::string& serial, WallTime not_after, WallTime now) {
  return db.run(
      "INSERT OR IGNORE INTO membership_certificate(serial, name, key_hash, pem, not_before_s, not_after_s) "
      "VALUES(?1, ?2, '', '', ?3, ?4)",
      serial, name, seconds(now), seconds(not_after));
}

Status check_free_to_join(const Rules& rules, const std::string& name) {
  if (auto ok = check_node_name(name); !ok) return ok;
  if (name == rules.own_name)
    return fail(Errc::no_permission, "'{}' is the controller's own name: give the node its own [node] name", name);
  if (std::find(rules.admins.begin(), rules.admins.end(), name) != rules.admins.end())
    return fail(Errc::no_permission, "'{}' is one of [datastore] admins: such a certificate is not given by join",
                name);
  return {};
}

Result<Issued> issue(Db& db, const Rules& rules, const std::string& name, const std::string& csr) {
  auto held = valid_certificates(db, name, rules.now);
  if (!held) return tl::unexpected(held.error());
  if (*held >= registry::kMaxCertificatesOfName)
    return fail(Errc::exhausted, "'{}' has {} valid certificates already: calico-node join revoke {}", name, *held,
                name);
  Subject subject;
  subject.name = name;
  subject.dns = {name};
  subject.client = true;
  subject.not_before = rules.now - kSkew;
  subject.not_after = rules.now + rules.life;
  auto pem = sign_request(rules.ca, csr, subject);
  if (!pem) return tl::unexpected(pem.error());
  auto made = read_certificate(*pem);
  if (!made) return tl::unexpected(made.error());
  if (made->not_after <= rules.now)
    return fail(Errc::unavailable, "the CA's own certificate ended on {}: give the controller a new CA",
                time_text(made->not_after));
  if (auto s = db.run("INSERT INTO membership_certificate(serial, name, key_hash, pem, not_before_s, not_after_s) "
                      "VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                      made->serial, name, made->key_hash, *pem, seconds(made->not_before), seconds(made->not_after));
      !s)
    return tl::unexpected(s.error());
  return Issued{name, made->serial, std::move(*pem), made->not_after, false};
}

}  // namespace

const store::Schema kMembershipSchema{"membership", kMigrations};

namespace registry {

Result<Token> make_token(Db& db, const Rules& rules, const std::string& name, std::chrono::seconds ttl) {
  if (!name.empty())
    if (auto ok = check_free_to_join(rules, name); !ok) return tl::unexpected(ok.error());
  auto waiting =
      db.number("SELECT count(*) FROM membership_token WHERE used_by = '' AND expires_s > ?1", seconds(rules.now));
  if (!waiting) return tl::unexpected(waiting.error());
  if (*waiting >= kMaxTokens)
    return fail(Errc::exhausted, "{} tokens wait to be used: calico-node join token revoke ID", *waiting);
  if (auto s = prune(db, rules.now); !s) return tl::unexpected(s.error());
  auto token = membership::make_token(rules.ca_hash);
  if (!token) return token;
  if (auto s = db.run("INSERT INTO membership_token(id, secret_hash, name, expires_s) VALUES(?1, ?2, ?3, ?4)",
                      token->id, hash_secret(token->secret), name, seconds(rules.now + ttl));
      !s)
    return tl::unexpected(s.error());
  return token;
}

Result<std::vector<TokenRow>> tokens(Db& db, WallTime now) {
  std::vector<TokenRow> out;
  auto rows = db.query(
      "SELECT id, name, expires_s, used_by FROM membership_token WHERE expires_s > ?1 "
      "ORDER BY expires_s, id",
      seconds(now));
  auto s = store::each_row(std::move(rows), [&](const store::Query& q) {
    out.push_back({std::string(q.text(0)), std::string(q.text(1)), wall(q.integer(2)), std::string(q.text(3))});
  });
  if (!s) return tl::unexpected(s.error());
  return out;
}

Status drop_token(Db& db, const std::string& id) {
  if (auto s = db.run("DELETE FROM membership_token WHERE id = ?1", id); !s) return s;
  if (db.changes() == 0) return fail(Errc::not_found, "no token '{}': calico-node join token list", id);
  return {};
}

Result<Issued> join(Db& db, const Rules& rules, const JoinCall& call) {
  std::string hash, bound, used_by, used_key, serial;
  std::int64_t expires = 0;
  {
    auto q = db.query(
        "SELECT secret_hash, name, expires_s, used_by, used_key, serial FROM membership_token "
        "WHERE id = ?1",
        call.id);
    auto row = q.next();
    if (!row) return tl::unexpected(row.error());
    if (*row) {
      hash = q.text(0), bound = q.text(1), expires = q.integer(2);
      used_by = q.text(3), used_key = q.text(4), serial = q.text(5);
    }
  }
  // One text for a token that is not there and for a wrong secret: a guess learns nothing.
  if (!same_secret(hash, hash_secret(call.secret)))
    return fail(Errc::no_permission, "the token is not known, or was revoked: {}", kNewToken);
  if (expires <= seconds(rules.now))
    return fail(Errc::no_permission, "the token ended on {}: {}", time_text(wall(expires)), kNewToken);
  if (auto ok = check_free_to_join(rules, call.name); !ok) return tl::unexpected(ok.error());
  if (!bound.empty() && bound != call.name)
    return fail(Errc::no_permission, "the token is for '{}', not for '{}': {} --name {}", bound, call.name, kNewToken,
                call.name);
  auto key_hash = check_request(call.csr);
  if (!key_hash) return tl::unexpected(key_hash.error());

  if (!used_by.empty()) {
    // The answer was lost on its way: the same node asks again with the same key.
    if (used_by == call.name && used_key == *key_hash) {
      auto before = issued_for(db, call.name, *key_hash, "", rules.now);
      if (!before) return tl::unexpected(before.error());
      if (*before && (*before)->serial == serial) return std::move(**before);
    }
    return fail(Errc::no_permission, "the token was used by '{}' already: {}", used_by, kNewToken);
  }
  auto held = valid_certificates(db, call.name, rules.now);
  if (!held) return tl::unexpected(held.error());
  if (*held > 0 && bound.empty())
    return fail(Errc::conflict,
                "'{0}' is a member with a valid certificate: {1} --name {0}, or, if that host is gone, calico-node "
                "join revoke {0}",
                call.name, kNewToken);
  auto issued = issue(db, rules, call.name, call.csr);
  if (!issued) return issued;
  if (auto s = db.run("UPDATE membership_token SET used_by = ?2, used_key = ?3, serial = ?4 WHERE id = ?1", call.id,
                      call.name, *key_hash, issued->serial);
      !s)
    return tl::unexpected(s.error());
  return issued;
}

Result<Issued> renew(Db& db, const Rules& rules, const RenewCall& call) {
  if (auto ok = check_free_to_join(rules, call.name); !ok) return tl::unexpected(ok.error());
  auto revoked = db.number("SELECT count(*) FROM membership_revoked WHERE serial = ?1", call.serial);
  if (!revoked) return tl::unexpected(revoked.error());
  if (*revoked > 0)
    return fail(Errc::no_permission, "the certificate {} of '{}' is revoked: {} --name {}", call.serial, call.name,
                kNewToken, call.name);
  auto key_hash = check_request(call.csr);
  if (!key_hash) return tl::unexpected(key_hash.error());
  auto before = issued_for(db, call.name, *key_hash, call.serial, rules.now);
  if (!before) return tl::unexpected(before.error());
  if (*before) return std::move(**before);
  if (auto s = adopt(db, call.name, call.serial, call.not_after, rules.now); !s) return tl::unexpected(s.error());
  return issue(db, rules, call.name, call.csr);
}

Result<std::vector<std::string>> revoke(Db& db, const std::string& name, const std::vector<Seen>& seen, WallTime now) {
  for (const auto& c : seen)
    if (auto s = adopt(db, name, c.serial, c.not_after, now); !s) return tl::unexpected(s.error());
  std::vector<std::string> serials;
  std::vector<std::int64_t> ends;
  {
    auto q = db.query(
        "SELECT c.serial, c.not_after_s FROM membership_certificate c "
        "LEFT JOIN membership_revoked r ON r.serial = c.serial "
        "WHERE c.name = ?1 AND c.not_after_s > ?2 AND r.serial IS NULL",
        name, seconds(now));
    for (;;) {
      auto row = q.next();
      if (!row) return tl::unexpected(row.error());
      if (!*row) break;
      serials.emplace_back(q.text(0));
      ends.push_back(q.integer(1));
    }
  }
  for (std::size_t i = 0; i < serials.size(); ++i)
    if (auto s = db.run("INSERT INTO membership_revoked(serial, name, revoked_s, not_after_s) VALUES(?1, ?2, ?3, ?4)",
                        serials[i], name, seconds(now), ends[i]);
        !s)
      return tl::unexpected(s.error());
  // A token bound to the name would let the host that is thrown out back in.
  if (auto s = db.run("DELETE FROM membership_token WHERE name = ?1 OR used_by = ?1", name); !s)
    return tl::unexpected(s.error());
  return serials;
}

Result<std::vector<CertificateRow>> certificates(Db& db, WallTime now) {
  std::vector<CertificateRow> out;
  auto rows = db.query(
      "SELECT c.name, c.serial, c.not_before_s, c.not_after_s, r.serial IS NOT NULL FROM membership_certificate c "
      "LEFT JOIN membership_revoked r ON r.serial = c.serial WHERE c.not_after_s > ?1 ORDER BY c.name, c.not_after_s",
      seconds(now - kKeepEnded));
  auto s = store::each_row(std::move(rows), [&](const store::Query& q) {
    out.push_back(
        {std::string(q.text(0)), std::string(q.text(1)), wall(q.integer(2)), wall(q.integer(3)), q.integer(4) != 0});
  });
  if (!s) return tl::unexpected(s.error());
  return out;
}

Result<std::set<std::string>> revoked_serials(Db& db) {
  std::set<std::string> out;
  auto s = store::each_row(db.query("SELECT serial FROM membership_revoked"),
                           [&](const store::Query& q) { out.emplace(q.text(0)); });
  if (!s) return tl::unexpected(s.error());
  return out;
}

Status prune(Db& db, WallTime now) {
  const auto before = seconds(now - kKeepEnded);
  for (const char* sql :
       {"DELETE FROM membership_token WHERE expires_s < ?1", "DELETE FROM membership_revoked WHERE not_after_s < ?1",
        "DELETE FROM membership_certificate WHERE not_after_s < ?1"})
    if (auto s = db.run(sql, before); !s) return s;
  return {};
}

}  // namespace registry
}  // namespace calico::membership
