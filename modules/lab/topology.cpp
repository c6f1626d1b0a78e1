#include "modules/lab/topology.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <set>
#include <system_error>
#include <thread>

namespace calico::lab {

namespace {

tl::unexpected<Error> fail_nl(int err, std::string_view what) {
  Errc code = Errc::internal;
  switch (-err) {
    case NLE_EXIST:
      code = Errc::exists;
      break;
    case NLE_NODEV:
    case NLE_OBJ_NOTFOUND:
      code = Errc::not_found;
      break;
    case NLE_PERM:
    case NLE_NOACCESS:
      code = Errc::no_permission;
      break;
    case NLE_OPNOTSUPP:
      code = Errc::unsupported;
      break;
    case NLE_NOMEM:
      code = Errc::exhausted;
      break;
    default:
      break;
  }
  return fail(code, "{}: {}", what, nl_geterror(err));
}

struct LinkFree {
  void operator()(rtnl_link* l) const { rtnl_link_put(l); }
};
struct AddrFree {
  void operator()(rtnl_addr* a) const { rtnl_addr_put(a); }
};
struct NlAddrFree {
  void operator()(nl_addr* a) const { nl_addr_put(a); }
};
struct CacheFree {
  void operator()(nl_cache* c) const { nl_cache_free(c); }
};
using Link = std::unique_ptr<rtnl_link, LinkFree>;
using Addr = std::unique_ptr<rtnl_addr, AddrFree>;
using NlAddr = std::unique_ptr<nl_addr, NlAddrFree>;
using Cache = std::unique_ptr<nl_cache, CacheFree>;

NlAddr nl_addr_of(const Mac& mac) { return NlAddr(nl_addr_build(AF_LLC, mac.b.data(), mac.b.size())); }

Result<Link> get_link(nl_sock* s, const std::string& name) {
  rtnl_link* link = nullptr;
  if (int err = rtnl_link_get_kernel(s, 0, name.c_str(), &link); err < 0) return fail_nl(err, "link " + name);
  return Link(link);
}

Status change_link(nl_sock* s, const std::string& name, const std::function<void(rtnl_link*)>& edit) {
  auto link = get_link(s, name);
  if (!link) return tl::unexpected(link.error());
  Link change(rtnl_link_alloc());
  rtnl_link_set_ifindex(change.get(), rtnl_link_get_ifindex(link->get()));
  edit(change.get());
  if (int err = rtnl_link_change(s, link->get(), change.get(), 0); err < 0) return fail_nl(err, "link " + name);
  return {};
}

}  // namespace

Result<Fd> make_netns(const std::string& path) {
  Fd mark(::open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!mark) return fail_errno(errno, path);
  int err = 0;
  // In a thread of its own: the namespace that unshare() leaves belongs to that thread and to nobody else.
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0 ||
        ::mount("/proc/thread-self/ns/net", path.c_str(), "none", MS_BIND, nullptr) != 0) {
      err = errno;
    }
  }).join();
  if (err != 0) {
    ::unlink(path.c_str());
    return fail_errno(err, "network namespace " + path);
  }
  return open_netns(path);
}

Result<Fd> open_netns(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, path);
  return fd;
}

Status remove_netns(const std::string& path) {
  if (::umount2(path.c_str(), MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT) return fail_errno(errno, path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, path);
  return {};
}

std::vector<pid_t> processes_in(const std::vector<int>& namespaces) {
  std::set<std::pair<dev_t, ino_t>> wanted;
  for (int ns : namespaces) {
    struct stat st {};
    if (::fstat(ns, &st) == 0) wanted.emplace(st.st_dev, st.st_ino);
  }
  std::vector<pid_t> out;
  DIR* proc = ::opendir("/proc");
  if (proc == nullptr) return out;
  while (dirent* e = ::readdir(proc)) {
    char* end = nullptr;
    long pid = std::strtol(e->d_name, &end, 10);
    if (pid <= 1 || *end != 0 || pid == ::getpid()) continue;
    struct stat st {};
    if (::stat(fmt::format("/proc/{}/ns/net", pid).c_str(), &st) != 0) continue;
    if (wanted.contains({st.st_dev, st.st_ino})) out.push_back(static_cast<pid_t>(pid));
  }
  ::closedir(proc);
  return out;
}

Status in_netns(int ns, const std::function<Status()>& f) {
  Fd home(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!home) return fail_errno(errno, "/proc/thread-self/ns/net");
  if (::setns(ns, CLONE_NEWNET) != 0) return fail_errno(errno, "enter a network namespace");
  Status result = f();
  if (::setns(home.get(), CLONE_NEWNET) != 0) std::abort();
  return result;
}

Status set_sysctls(int ns, const std::vector<Sysctl>& values) {
  return in_netns(ns, [&]() -> Status {
    for (const auto& v : values) {
      std::string path = "/proc/sys/net/" + v.key;
      // Dots separate, except that interface names keep theirs: callers use slashes for those.
      if (v.key.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
      if (auto s = write_existing(path, v.value); !s) return s;
    }
    return {};
  });
}

Wire::Wire(nl_sock* s) : socket_(s) {}
Wire::Wire(Wire&& o) noexcept : socket_(std::exchange(o.socket_, nullptr)) {}
Wire& Wire::operator=(Wire&& o) noexcept {
  std::swap(socket_, o.socket_);
  return *this;
}
Wire::~Wire() {
  if (socket_ != nullptr) nl_socket_free(socket_);
}

Result<Wire> Wire::open(int ns) {
  nl_sock* s = nl_socket_alloc();
  if (s == nullptr) return fail(Errc::exhausted, "netlink socket: out of memory");
  Wire wire(s);
  auto status = in_netns(ns, [&]() -> Status {
    if (int err = nl_connect(s, NETLINK_ROUTE); err < 0) return fail_nl(err, "netlink socket");
    return {};
  });
  if (!status) return tl::unexpected(status.error());
  nl_socket_set_buffer_size(s, 1 << 20, 1 << 20);
  return wire;
}

Status Wire::add_bridge(const std::string& name) {
  Link link(rtnl_link_alloc());
  rtnl_link_set_name(link.get(), name.c_str());
  if (int err = rtnl_link_set_type(link.get(), "bridge"); err < 0) return fail_nl(err, "bridge " + name);
  rtnl_link_set_flags(link.get(), IFF_UP);
  if (int err = rtnl_link_add(socket_, link.get(), NLM_F_CREATE | NLM_F_EXCL); err < 0)
    return fail_nl(err, "bridge " + name);
  return {};
}

Status Wire::add_veth(const std::string& name, int peer_ns, const std::string& peer, std::optional<Mac> mac,
                      std::optional<Mac> peer_mac, unsigned mtu) {
  Link link(rtnl_link_veth_alloc());
  if (!link) return fail(Errc::exhausted, "veth {}: out of memory", name);
  rtnl_link_set_name(link.get(), name.c_str());
  rtnl_link_set_mtu(link.get(), mtu);
  rtnl_link* other = rtnl_link_veth_get_peer(link.get());  // a reference of our own
  rtnl_link_set_name(other, peer.c_str());
  rtnl_link_set_mtu(other, mtu);
  rtnl_link_set_ns_fd(other, peer_ns);
  if (mac) rtnl_link_set_addr(link.get(), nl_addr_of(*mac).get());
  if (peer_mac) rtnl_link_set_addr(other, nl_addr_of(*peer_mac).get());
  int err = rtnl_link_add(socket_, link.get(), NLM_F_CREATE | NLM_F_EXCL);
  rtnl_link_put(other);
  if (err < 0) return fail_nl(err, fmt::format("veth {} with peer {}", name, peer));
  return {};
}

Status Wire::set_master(const std::string& name, const std::string& bridge) {
  auto master = get_link(socket_, bridge);
  if (!master) return tl::unexpected(master.error());
  int index = rtnl_link_get_ifindex(master->get());
  return change_link(socket_, name, [&](rtnl_link* l) { rtnl_link_set_master(l, index); });
}

Status Wire::set_up(const std::string& name) {
  return change_link(socket_, name, [](rtnl_link* l) { rtnl_link_set_flags(l, IFF_UP); });
}

Status Wire::del_link(const std::string& name) {
  Link link(rtnl_link_alloc());
  rtnl_link_set_name(link.get(), name.c_str());
  if (int err = rtnl_link_delete(socket_, link.get()); err < 0) return fail_nl(err, "link " + name);
  return {};
}

Status Wire::add_address(const std::string& name, const Prefix& address) {
  auto link = get_link(socket_, name);
  if (!link) return tl::unexpected(link.error());
  Addr addr(rtnl_addr_alloc());
  rtnl_addr_set_ifindex(addr.get(), rtnl_link_get_ifindex(link->get()));
  auto bytes = address.addr.bytes();
  NlAddr local(nl_addr_build(address.addr.is_v4() ? AF_INET : AF_INET6, bytes.data(), bytes.size()));
  nl_addr_set_prefixlen(local.get(), address.len);
  rtnl_addr_set_local(addr.get(), local.get());
  if (address.addr.is_v6()) rtnl_addr_set_flags(addr.get(), IFA_F_NODAD);
  if (int err = rtnl_addr_add(socket_, addr.get(), 0); err < 0)
    return fail_nl(err, fmt::format("address {} on {}", address, name));
  return {};
}

Result<Mac> Wire::mac_of(const std::string& name) {
  auto link = get_link(socket_, name);
  if (!link) return tl::unexpected(link.error());
  nl_addr* a = rtnl_link_get_addr(link->get());
  Mac mac;
  if (a == nullptr || nl_addr_get_len(a) != mac.b.size()) return fail(Errc::invalid, "link {} has no MAC", name);
  const auto* bytes = static_cast<const std::uint8_t*>(nl_addr_get_binary_addr(a));
  std::copy_n(bytes, mac.b.size(), mac.b.begin());
  return mac;
}

Result<unsigned> Wire::index_of(const std::string& name) {
  auto link = get_link(socket_, name);
  if (!link) return tl::unexpected(link.error());
  return static_cast<unsigned>(rtnl_link_get_ifindex(link->get()));
}

Result<std::vector<Ip>> Wire::addresses_of(const std::string& name) {
  auto link = get_link(socket_, name);
  if (!link) return tl::unexpected(link.error());
  int index = rtnl_link_get_ifindex(link->get());
  nl_cache* raw = nullptr;
  if (int err = rtnl_addr_alloc_cache(socket_, &raw); err < 0) return fail_nl(err, "addresses of " + name);
  Cache cache(raw);
  std::vector<Ip> out;
  for (nl_object* o = nl_cache_get_first(raw); o != nullptr; o = nl_cache_get_next(o)) {
    auto* a = reinterpret_cast<rtnl_addr*>(o);
    if (rtnl_addr_get_ifindex(a) != index || rtnl_addr_get_scope(a) != RT_SCOPE_UNIVERSE) continue;
    if ((rtnl_addr_get_flags(a) & IFA_F_TENTATIVE) != 0) continue;
    nl_addr* local = rtnl_addr_get_local(a);
    if (local == nullptr) continue;
    out.push_back(
        Ip::from_bytes({static_cast<const std::byte*>(nl_addr_get_binary_addr(local)), nl_addr_get_len(local)}));
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace calico::lab
