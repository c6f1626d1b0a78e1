#pragma once
/// The node's side of membership: `calico-node join`.
///
///   JoinOptions o{.endpoints = {…}, .token = *parse_token(text), .name = "compute-1", .pki_dir = state_dir + "/pki"};
///   auto joined = join(o);          // blocks; asks the controller, writes <pki>/node
///
/// Nothing is trusted but the pin in the token. The key is made here and stays here: `<pki>/pending.key` (0600) until
/// the certificate for it is on disk, so that a run that was interrupted, or whose answer was lost, can be repeated
/// with the same token. A node that is a member already, which the controller confirms, keeps what it has.
///
/// Thread: any; blocks at most for the request's deadline. Errors: one line with what to do: unavailable, timeout (the
/// controller), no_permission (pin, token, name), conflict (the name is taken), invalid, those of the file system.
/// Whatever fails, <pki>/node is as it was.
#include <string>
#include <vector>

#include "core/base/clock.hpp"
#include "core/http/message.hpp"
#include "core/membership/token.hpp"

namespace calico::membership {

struct JoinOptions {
  std::vector<http::Endpoint> endpoints;  ///< https only
  Token token;
  std::string name;
  std::string pki_dir;
  Duration timeout = std::chrono::seconds(30);
};

struct Joined {
  std::string name;
  std::string serial;
  WallTime not_after;
  bool already = false;  ///< it was a member: nothing was written
  http::TlsFiles files;  ///< below <pki>/node
};

/// The files of a node that has joined: <pki>/node/{ca.crt,node.crt,node.key}.
[[nodiscard]] http::TlsFiles node_files(const std::string& pki_dir);
[[nodiscard]] Result<Joined> join(const JoinOptions& options);

/// What the controller answers to join and renew, checked against what was asked: for this name and key, by this CA.
struct NewCertificate {
  std::string serial;
  WallTime not_after;
  std::string certificate;
  std::string ca;
};
[[nodiscard]] Result<NewCertificate> parse_answer(std::string_view body, const std::string& name,
                                                  std::string_view key_pem, const std::string& ca_hash);
/// The one line of a refusal's body, made harmless for a terminal; or the status when there is none.
[[nodiscard]] std::string refusal_text(unsigned status, std::string_view body);
/// Key of a certificate that is asked for, kept until it is there. Made when it is not.
[[nodiscard]] Result<std::string> pending_key(const std::string& pki_dir);
/// Replaces <pki>/node by these and forgets the pending key.
[[nodiscard]] Status keep(const std::string& pki_dir, const NewCertificate& made, std::string_view key_pem);

/// conf.d's file that names them: [datastore] endpoints and files; [node] name when `with_name`.
[[nodiscard]] std::string config_text(const JoinOptions& options, bool with_name);

}  // namespace calico::membership
