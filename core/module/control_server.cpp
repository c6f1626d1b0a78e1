#include "core/module/control_server.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/json.hpp>
#include <mutex>

#include "core/http/server.hpp"
#include "core/loop/loop.hpp"

namespace calico::module {
namespace {

std::string error_json(std::string_view what) { return boost::json::serialize(boost::json::object{{"error", what}}); }

}  // namespace

struct ControlServer::Impl {
  Loop loop{"control"};
  std::unique_ptr<http::Server> server;
  std::mutex mutex;
  std::map<std::string, ControlHandler> handlers;
  std::map<std::string, ControlStream> streams;

  static ControlRequest control_request(const http::Request& request) {
    ControlRequest in{.path = request.path, .query = {}, .body = request.body};
    for (const auto& [key, value] : request.query) in.query.try_emplace(key, value);
    return in;
  }

  http::Response answer(const http::Request& request) {
    ControlHandler handler;
    {
      std::lock_guard lock(mutex);
      if (const auto s = streams.find(request.method + " " + request.path); s != streams.end()) {
        http::Response lines;
        lines.headers.set("Content-Type", "application/json");
        lines.stream = [stream = s->second,
                        in = control_request(request)](std::shared_ptr<http::ResponseStream> out) -> awaitable<void> {
          ControlWrite write = [out](std::string text) -> awaitable<bool> {
            auto written = co_await out->write(std::move(text));
            co_return written.has_value();
          };
          co_await stream(in, write);
        };
        return lines;
      }
      const auto it = handlers.find(request.method + " " + request.path);
      if (it == handlers.end()) {
        std::string known;
        for (const auto& [route, h] : handlers) known += (known.empty() ? "" : ", ") + route;
        for (const auto& [route, h] : streams) known += ", " + route;
        return http::Response::json(404,
                                    error_json("no " + request.method + " " + request.path + "; there is: " + known));
      }
      handler = it->second;
    }
    const auto in = control_request(request);
    try {
      auto reply = handler(in);
      auto response = http::Response::json(static_cast<unsigned>(reply.status), std::move(reply.json));
      response.headers.set("Content-Type", std::move(reply.type));
      return response;
    } catch (const std::exception& e) {
      return http::Response::json(500, error_json(e.what()));
    }
  }
};

ControlServer::ControlServer() : impl_(std::make_unique<Impl>()) {}
ControlServer::~ControlServer() { stop(); }

void ControlServer::handle(std::string route, ControlHandler handler) {
  std::lock_guard lock(impl_->mutex);
  impl_->handlers[std::move(route)] = std::move(handler);
}

void ControlServer::stream(std::string route, ControlStream handler) {
  std::lock_guard lock(impl_->mutex);
  impl_->streams[std::move(route)] = std::move(handler);
}

Status ControlServer::listen(const std::string& socket_path) {
  impl_->server = std::make_unique<http::Server>(
      impl_->loop.executor(), http::ServerOptions{.name = "control", .max_connections = 64},
      [impl = impl_.get()](http::Request request) -> awaitable<http::Response> { co_return impl->answer(request); });
  http::Endpoint at;
  at.unix_path = socket_path;
  if (auto ok = impl_->server->listen({.at = at, .tls = {}, .mode = 0600}); !ok) {
    impl_->server.reset();
    return ok;
  }
  impl_->loop.start();
  impl_->loop.call([this] { impl_->server->start(); });
  return {};
}

void ControlServer::stop() {
  if (!impl_->server) return;
  asio::co_spawn(
      impl_->loop.executor(), [this]() -> awaitable<void> { co_await impl_->server->stop(); }, asio::use_future)
      .get();
  impl_->loop.call([this] { impl_->server.reset(); });
  impl_->loop.stop();
}

}  // namespace calico::module
