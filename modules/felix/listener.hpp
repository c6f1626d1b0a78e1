#pragma once
/// Hears the first frame a VM sends from its interface: a packet socket on that interface which the kernel filters by
/// the VM's MAC. A paused VM sends nothing, so any frame says that it runs here: the RARP or gratuitous ARP its
/// hypervisor sends for it, or, should that be lost, whatever it says first.
///
/// Thread: loop. Owns: the socket, closed after the first frame. Needs CAP_NET_RAW. Errors of open(): no_permission,
/// unavailable (the interface is gone).
#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>

#include "core/base/error.hpp"
#include "core/base/ids.hpp"
#include "core/base/ip.hpp"

namespace calico::felix {

class Listener {
 public:
  /// `heard` runs once, on the executor; not after the Listener is gone.
  [[nodiscard]] static Result<Listener> open(boost::asio::any_io_executor executor, IfIndex interface, const Mac& mac,
                                             std::function<void()> heard);
  Listener(Listener&&) noexcept;
  Listener& operator=(Listener&&) noexcept;
  ~Listener();

  IfIndex interface() const { return interface_; }

 private:
  struct Socket;
  Listener(std::shared_ptr<Socket> socket, IfIndex interface);
  std::shared_ptr<Socket> socket_;
  IfIndex interface_;
};

}  // namespace calico::felix
