#include "core/membership/join.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <optional>

#include "core/http/ask.hpp"
#include "core/http/certificates.hpp"
#include "core/membership/files.hpp"
#include "core/membership/x509.hpp"

namespace calico::membership {

namespace json = boost::json;

namespace {

constexpr std::size_t kTextBytes = 400;

std::string pending_path(const std::string& pki_dir) { return pki_dir + "/pending.key"; }

/// Bounded to what an answer of a controller is.
Result<http::Answer> ask(const JoinOptions& options, http::TlsFiles tls, http::ClientRequest request) {
  http::ClientOptions client_options;
  client_options.endpoints = options.endpoints;
  client_options.tls = std::move(tls);
  client_options.body_bytes = 256 * 1024;
  client_options.header_bytes = 16 * 1024;
  request.timeout = options.timeout;
  return http::ask(std::move(client_options), std::move(request));
}

/// The pair this node has, when it is for this name, by the pinned CA, and not over.
std::optional<Certificate> own_certificate(const JoinOptions& options) {
  const auto files = node_files(options.pki_dir);
  auto cert = read_small(files.cert_file);
  auto key = read_small(files.key_file);
  auto ca = read_small(files.ca_file);
  if (!cert || !key || !ca || !check_issued(*cert, *key, *ca)) return std::nullopt;
  auto read = read_certificate(*cert);
  auto read_ca = read_certificate(*ca);
  if (!read || !read_ca || read->name != options.name || read_ca->key_hash != options.token.ca_hash)
    return std::nullopt;
  if (read->not_after <= std::chrono::system_clock::now()) return std::nullopt;
  return std::move(*read);
}

Errc code_of(unsigned status) {
  if (status == 400) return Errc::invalid;
  if (status == 401 || status == 403) return Errc::no_permission;
  if (status == 409) return Errc::conflict;
  if (status == 429) return Errc::busy;
  return Errc::unavailable;
}

}  // namespace

http::TlsFiles node_files(const std::string& pki_dir) {
  http::TlsFiles files;
  files.ca_file = pki_dir + "/node/ca.crt";
  files.cert_file = pki_dir + "/node/node.crt";
  files.key_file = pki_dir + "/node/node.key";
  return files;
}

std::string refusal_text(unsigned status, std::string_view body) {
  boost::system::error_code ec;
  if (body.size() <= 64 * 1024) {
    const auto v = json::parse(body, ec);
    const auto* o = !ec ? v.if_object() : nullptr;
    const auto* error = o ? o->if_contains("error") : nullptr;
    if (error && error->is_string()) {
      std::string text(std::string_view(error->get_string()).substr(0, kTextBytes));
      for (char& c : text)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
      return text;
    }
  }
  if (status == 404) return "it does not know of joining: is this the datastore of a calico-node controller?";
  return fmt::format("it answered {} {}", status, http::reason_phrase(status));
}

Result<NewCertificate> parse_answer(std::string_view body, const std::string& name, std::string_view key_pem,
                                    const std::string& ca_hash) {
  boost::system::error_code ec;
  const auto v = json::parse(body, ec);
  const auto* o = !ec ? v.if_object() : nullptr;
  const auto* cert = o ? o->if_contains("certificate") : nullptr;
  const auto* ca = o ? o->if_contains("ca") : nullptr;
  if (!cert || !cert->is_string() || !ca || !ca->is_string())
    return fail(Errc::invalid, "the controller answered something that is not a certificate");
  NewCertificate out;
  out.certificate = cert->get_string();
  out.ca = ca->get_string();
  auto read = read_certificate(out.certificate);
  auto read_ca = read_certificate(out.ca);
  if (!read || !read_ca) return wrap(read ? read_ca.error() : read.error(), "the controller's answer");
  if (read_ca->key_hash != ca_hash)
    return fail(Errc::no_permission, "the controller answered with a CA we do not trust");
  if (auto s = check_issued(out.certificate, key_pem, out.ca); !s) return wrap(s.error(), "the controller's answer");
  if (read->name != name)
    return fail(Errc::invalid, "the controller answered with a certificate for another name than '{}'", name);
  out.serial = read->serial;
  out.not_after = read->not_after;
  return out;
}

Result<std::string> pending_key(const std::string& pki_dir) {
  if (auto s = make_private_dir(pki_dir); !s) return tl::unexpected(s.error());
  const auto path = pending_path(pki_dir);
  auto key = read_small(path);
  // One that is cut short, or not ours to use, is made anew.
  if (key && make_request(*key, "x")) return key;
  auto fresh = make_key();
  if (!fresh) return fresh;
  if (auto s = http::write_file(path, *fresh, 0600); !s) return tl::unexpected(s.error());
  return fresh;
}

Status keep(const std::string& pki_dir, const NewCertificate& made, std::string_view key_pem) {
  if (auto s = write_set(
          pki_dir, "node",
          {{"ca.crt", made.ca, 0644}, {"node.crt", made.certificate, 0644}, {"node.key", std::string(key_pem), 0600}});
      !s)
    return s;
  ::unlink(pending_path(pki_dir).c_str());
  return {};
}

Result<Joined> join(const JoinOptions& options) {
  if (auto ok = check_node_name(options.name); !ok) return tl::unexpected(ok.error());
  for (const auto& e : options.endpoints)
    if (!e.tls) return fail(Errc::invalid, "{}: https is needed to join: https://CONTROLLER:2379", e.to_string());
  Joined out;
  out.name = options.name;
  out.files = node_files(options.pki_dir);

  if (auto own = own_certificate(options)) {
    http::ClientRequest request;
    request.target = "/calico-node/v1/member";
    request.idempotent = true;
    auto answer = ask(options, out.files, request);
    if (answer && answer->status == 200) {
      out.serial = own->serial;
      out.not_after = own->not_after;
      out.already = true;
      return out;
    }
    // Refused, as revoked or as another cloud's: then the token must help. Not reached: it would not help either.
    if (!answer && answer.error().code != Errc::no_permission)
      return wrap(answer.error(), "no controller answers; look whether it runs and this is its [datastore] listen");
    if (answer && answer->status != 401)
      return fail(code_of(answer->status), "the controller: {}", refusal_text(answer->status, answer->body));
  }

  auto key = pending_key(options.pki_dir);
  if (!key) return tl::unexpected(key.error());
  auto csr = make_request(*key, options.name);
  if (!csr) return tl::unexpected(csr.error());
  http::TlsFiles pinned;
  pinned.ca_pin = options.token.ca_hash;
  http::ClientRequest request;
  request.method = "POST";
  request.target = "/calico-node/v1/join";
  request.headers.set("Content-Type", "application/json");
  request.body = json::serialize(
      json::object{{"id", options.token.id}, {"secret", options.token.secret}, {"name", options.name}, {"csr", *csr}});
  request.idempotent = true;  // the same token, name and key are answered again
  auto answer = ask(options, pinned, request);
  if (!answer && answer.error().code == Errc::no_permission)
    return wrap(answer.error(),
                "this is not the controller the token is from, or not one of its certificate's names ([datastore] "
                "server_names there)");
  if (!answer)
    return wrap(answer.error(), "no controller answers; look whether it runs and this is its [datastore] listen");
  if (answer->status != 200)
    return fail(code_of(answer->status), "the controller: {}", refusal_text(answer->status, answer->body));
  auto made = parse_answer(answer->body, options.name, *key, options.token.ca_hash);
  if (!made) return tl::unexpected(made.error());
  if (auto s = keep(options.pki_dir, *made, *key); !s)
    return wrap(s.error(), "the certificate cannot be kept; mend it and run the same command again");
  out.serial = made->serial;
  out.not_after = made->not_after;
  return out;
}

std::string config_text(const JoinOptions& options, bool with_name) {
  const auto files = node_files(options.pki_dir);
  std::string endpoints;
  for (const auto& e : options.endpoints) endpoints += (endpoints.empty() ? "" : ",") + e.to_string();
  std::string text = "; written by `calico-node join`; the next join writes it again\n";
  if (with_name) text += fmt::format("[node]\nname = {}\n", options.name);
  text += fmt::format("[datastore]\nendpoints = {}\nca_file = {}\ncert_file = {}\nkey_file = {}\n", endpoints,
                      files.ca_file, files.cert_file, files.key_file);
  return text;
}

}  // namespace calico::membership
