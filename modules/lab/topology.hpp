#pragma once
/// Network namespaces and the links between them, as the lab needs them: a namespace is a file under the lab's
/// directory that the kernel's namespace is mounted on, a cable is a veth pair, a switch is a bridge in a namespace of
/// its own. Nothing here ever writes to the namespace the caller lives in. Thread: any; calls that enter a namespace do
/// so in a short-lived thread of their own or restore it before returning. Owns: Netns and Wire own descriptors only;
/// the kernel objects stay until remove_netns(). Errors: no_permission without CAP_SYS_ADMIN/CAP_NET_ADMIN, exists,
/// not_found, otherwise as the kernel says.
#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/ip.hpp"
#include "modules/lab/os.hpp"

struct nl_sock;

namespace calico::lab {

/// Makes a namespace and mounts it on `path` (created). Errors: exists if the path is there.
[[nodiscard]] Result<Fd> make_netns(const std::string& path);
[[nodiscard]] Result<Fd> open_netns(const std::string& path);
/// Unmounts and unlinks; the namespace ends with its last process and descriptor. A missing path is fine.
[[nodiscard]] Status remove_netns(const std::string& path);
/// Every process whose network namespace is one of these, this one excepted.
std::vector<pid_t> processes_in(const std::vector<int>& namespaces);

/// Runs `f` with the calling thread inside `ns`. Sockets made there stay there, which is what this is for.
/// A thread that cannot come back would do harm anywhere: that aborts.
[[nodiscard]] Status in_netns(int ns, const std::function<Status()>& f);

/// Writes net.<key> (dots or slashes) in `ns`, for example {"ipv4.ip_forward", "1"}.
struct Sysctl {
  std::string key;
  std::string value;
};
[[nodiscard]] Status set_sysctls(int ns, const std::vector<Sysctl>& values);

/// A route socket that lives in one namespace.
class Wire {
 public:
  [[nodiscard]] static Result<Wire> open(int ns);
  Wire(Wire&&) noexcept;
  Wire& operator=(Wire&&) noexcept;
  ~Wire();

  [[nodiscard]] Status add_bridge(const std::string& name);
  /// A cable: `name` stays here, `peer` appears in `peer_ns`. MACs are chosen by the kernel unless given.
  [[nodiscard]] Status add_veth(const std::string& name, int peer_ns, const std::string& peer,
                                std::optional<Mac> mac = {}, std::optional<Mac> peer_mac = {}, unsigned mtu = 1500);
  [[nodiscard]] Status set_master(const std::string& name, const std::string& bridge);
  [[nodiscard]] Status set_up(const std::string& name);
  [[nodiscard]] Status del_link(const std::string& name);
  /// IPv6 addresses are usable at once (no duplicate address detection: the plan gives each address once).
  [[nodiscard]] Status add_address(const std::string& name, const Prefix& address);
  [[nodiscard]] Result<Mac> mac_of(const std::string& name);
  [[nodiscard]] Result<unsigned> index_of(const std::string& name);
  /// Global addresses of a link that are ready for use (not tentative).
  [[nodiscard]] Result<std::vector<Ip>> addresses_of(const std::string& name);

 private:
  explicit Wire(nl_sock* s);
  nl_sock* socket_ = nullptr;
};

}  // namespace calico::lab
