#include "core/membership/renewer.hpp"

#include <algorithm>
#include <boost/asio/this_coro.hpp>
#include <boost/json.hpp>

#include "core/http/client.hpp"
#include "core/membership/files.hpp"
#include "core/membership/join.hpp"

namespace calico::membership {
namespace {

constexpr Duration kLook = std::chrono::seconds(10);  ///< between two looks at the files
constexpr Duration kSoonest = std::chrono::minutes(1), kLatest = std::chrono::hours(1);

std::string how_to_come_back(const std::string& name) {
  return fmt::format(
      "on the controller: calico-node join token --name {}; here: calico-node join URL --token T, the process takes it "
      "up by itself",
      name);
}

}  // namespace

std::string left_text(Duration left) {
  const auto minutes = std::chrono::duration_cast<std::chrono::minutes>(left).count();
  if (minutes <= 0) return left > Duration::zero() ? "less than a minute" : "none";
  if (minutes < 60) return fmt::format("{} min", minutes);
  if (minutes < 24 * 60) return fmt::format("{} h {} min", minutes / 60, minutes % 60);
  return fmt::format("{} d {} h", minutes / (24 * 60), minutes / 60 % 24);
}

WallTime Renewer::due(const Certificate& c) {
  const auto life = c.not_after - c.not_before;
  // Serial numbers are random: a place within a tenth of the life, the same at every look.
  const auto place = static_cast<long>(std::hash<std::string>{}(c.serial) % 1000);
  return c.not_before + life / 3 * 2 + life / 10000 * (place - 500);
}

Renewer::Renewer(Options options)
    : options_(std::move(options)), clock_(options_.clock ? options_.clock : &system_clock_) {}

void Renewer::failed(const std::string& why, const Certificate& current) {
  const auto left = current.not_after - clock_->wall();
  const auto pause = std::clamp<Duration>(left / 10, kSoonest, kLatest);
  not_before_ = clock_->wall() + std::chrono::duration_cast<WallTime::duration>(pause);
  options_.say(Said::failed, fmt::format("the certificate of '{}' is not renewed yet, {} left: {}; tried again in {}",
                                         current.name, left_text(left), why, left_text(pause)));
}

http::awaitable<void> Renewer::take_up() {
  auto done = co_await options_.changed();
  if (!done) options_.say(Said::failed, fmt::format("the new certificate is not in use: {}", done.error().what));
}

http::awaitable<Duration> Renewer::step() {
  const auto files = node_files(options_.pki_dir);
  auto cert = read_small(files.cert_file);
  auto ca = read_small(files.ca_file);
  Result<Certificate> read = cert ? read_certificate(*cert) : Result<Certificate>(tl::unexpected(cert.error()));
  if (!read || !ca) {
    const auto why = read ? ca.error().what : fmt::format("{}: {}", files.cert_file, read.error().what);
    if (why != said_unreadable_) options_.say(Said::failed, why + "; " + how_to_come_back("NAME"));
    said_unreadable_ = why;
    co_return kLook;
  }
  said_unreadable_.clear();
  if (!serial_.empty() && read->serial != serial_) {
    options_.say(Said::replaced, fmt::format("the certificate of '{}' was replaced, valid until {}", read->name,
                                             time_text(read->not_after)));
    said_over_ = false;
    not_before_ = {};
    co_await take_up();
  }
  serial_ = read->serial;

  const auto now = clock_->wall();
  if (now >= read->not_after) {
    if (!said_over_)
      options_.say(Said::over, fmt::format("the certificate of '{}' ended on {}; {}", read->name,
                                           time_text(read->not_after), how_to_come_back(read->name)));
    said_over_ = true;
    co_return kLook;
  }
  const auto at = std::max(due(*read), not_before_);
  if (now < at) co_return std::min<Duration>(kLook, at - now);

  auto done = co_await renew(*read, *ca);
  if (!done) {
    failed(done.error().what, *read);
    co_return kLook;
  }
  not_before_ = {};
  co_await take_up();
  co_return kLook;
}

http::awaitable<Status> Renewer::renew(Certificate current, std::string ca_pem) {
  auto ca = read_certificate(ca_pem);
  if (!ca) co_return wrap(ca.error(), "ca.crt");
  auto key = pending_key(options_.pki_dir);
  if (!key) co_return tl::unexpected(key.error());
  auto csr = make_request(*key, current.name);
  if (!csr) co_return tl::unexpected(csr.error());
  http::ClientOptions client_options;
  client_options.endpoints = options_.endpoints;
  client_options.tls = node_files(options_.pki_dir);
  client_options.body_bytes = 256 * 1024;
  auto executor = co_await boost::asio::this_coro::executor;
  auto client = http::Client::create(executor, std::move(client_options));
  if (!client) co_return tl::unexpected(client.error());
  http::ClientRequest request;
  request.method = "POST";
  request.target = "/calico-node/v1/renew";
  request.headers.set("Content-Type", "application/json");
  request.body = boost::json::serialize(boost::json::object{{"csr", *csr}});
  request.idempotent = true;  // the same key is answered again
  auto answer = co_await (*client)->request(std::move(request));
  (*client)->close();
  if (!answer) co_return tl::unexpected(answer.error());
  if (answer->status != 200)
    co_return fail(Errc::unavailable, "the controller: {}", refusal_text(answer->status, answer->body));
  auto made = parse_answer(answer->body, current.name, *key, ca->key_hash);
  if (!made) co_return tl::unexpected(made.error());
  // The operator may have run `join` meanwhile: what is there now is then newer than ours.
  auto there = read_small(node_files(options_.pki_dir).cert_file);
  auto there_read = there ? read_certificate(*there) : Result<Certificate>(tl::unexpected(there.error()));
  if (there_read && there_read->serial != current.serial) co_return Status{};
  if (auto s = keep(options_.pki_dir, *made, *key); !s) co_return s;
  serial_ = made->serial;
  options_.say(Said::renewed, fmt::format("the certificate of '{}' was renewed, valid until {}", current.name,
                                          time_text(made->not_after)));
  co_return Status{};
}

}  // namespace calico::membership
