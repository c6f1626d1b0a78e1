#pragma once
/// The kernel's connection table of a namespace, counted.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <stdexcept>

#include "core/conntrack/table.hpp"
#include "tests/support/netns.hpp"

namespace calico::test {

/// How many entries `wanted` says yes to. Throws when the table cannot be read within 30 s.
inline std::size_t count_connections(const Netns& ns, const std::function<bool(const conntrack::Entry&)>& wanted) {
  std::size_t n = 0;
  ns.in([&] {
    auto table = conntrack::Table::open();
    if (!table) throw std::runtime_error(table.error().what);
    boost::asio::io_context io;
    const conntrack::Doomed count = [&](const auto& batch, auto&) {
      for (const auto& e : batch) n += wanted(e);
    };
    boost::asio::co_spawn(
        io,
        [&]() -> awaitable<void> {
          const auto pass = co_await table->sweep(io.get_executor(), count, std::chrono::seconds(30));
          if (!pass) throw std::runtime_error(pass.error().what);
        },
        [](std::exception_ptr e) {
          if (e) std::rethrow_exception(e);
        });
    io.run();
    return 0;
  });
  return n;
}

}  // namespace calico::test
