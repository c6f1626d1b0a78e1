#pragma once
/// A lab: the cluster of the Fuel document made of network namespaces. One namespace a node (controller-1, rr-2 …,
/// compute-1 …), one for a border router that is left free, and one, `fabric`, that holds the management and the public
/// switch. Each node runs `calico-node role …` of this very binary, with a /run, a configuration, a certificate and a
/// log of its own below the lab's directory. README.md has the picture.
///
///   auto cluster = Cluster::create(options);         // the lock is held as long as the object lives
///   cluster->build(); cluster->start_all();          // on failure: Cluster::down(paths)
///
/// Thread: one. Owns: the lock and descriptors; the lab itself outlives the process until down().
/// Errors: exists (a lab is there), timeout and closed (a node did not become ready; the end of its log is in `what`).
#include <map>

#include "modules/lab/plan.hpp"
#include "modules/lab/topology.hpp"

namespace calico::lab {

class Cluster {
 public:
  [[nodiscard]] static Result<Cluster> create(const Options& options);
  [[nodiscard]] static Result<Cluster> open(const std::string& dir, Millis limit = Millis(30000));
  /// Without the lock, for reading only.
  [[nodiscard]] static Result<Record> read(const std::string& dir);
  /// Removes everything of the lab in `dir`, also of one that was never finished. Nothing there: well.
  [[nodiscard]] static Status down(const std::string& dir);
  static std::string dir_of(const Options& options);

  const Record& record() const { return record_; }
  const Paths& paths() const { return paths_; }

  /// Namespaces, switches, cables, addresses.
  [[nodiscard]] Status build();
  /// CA, certificates, tokens, configuration files.
  [[nodiscard]] Status configure();
  /// Starts the processes of these nodes and waits for READY=1 of each, 30 s at most.
  [[nodiscard]] Status start(const std::vector<std::string>& names);
  /// The two halves of start(), so that other work can be done in between.
  [[nodiscard]] Status launch(const std::vector<std::string>& names);
  [[nodiscard]] Status await_ready();
  std::vector<std::string> all_nodes() const;  ///< those with a role
  /// How often a node started by this object has said READY=1 since.
  unsigned ready_count(const std::string& name);
  /// SIGKILL to the node's process and what it started, as the init system would do; forwarding stays.
  [[nodiscard]] Status kill(const std::string& name);
  /// SIGTERM, then waits up to `limit` for the end.
  [[nodiscard]] Status stop(const std::string& name, Millis limit = Millis(30000));

  /// A machine without a network card yet: namespace and listeners. Errors: exists.
  [[nodiscard]] Status boot_vm(const Vm& vm);
  /// What nova and libvirt do once the port is bound: the card appears. The VM's port_id, compute, mac and so on must
  /// be filled in.
  [[nodiscard]] Status plug_vm(const Vm& vm);
  /// The guest begins to run, which nova allows once the port is ACTIVE: its DHCP client starts.
  [[nodiscard]] Status run_vm(const std::string& vm);
  /// Waits until the DHCP client has configured every address of the VM's `ips`; says which are missing otherwise.
  [[nodiscard]] Status wait_addresses(const std::string& vm, Millis limit);
  /// Ends its processes and removes its namespace, card and files.
  [[nodiscard]] Status remove_vm(const std::string& vm);

  void set_network_id(std::string id) { record_.network_id = std::move(id); }
  [[nodiscard]] Status save();
  [[nodiscard]] Result<int> netns(const std::string& name);  ///< of a node or VM; owned by this
  [[nodiscard]] Result<Wire*> wire(const std::string& name);
  /// What a process of the node or VM sees; for `lab exec` as well.
  static NodeView view_of(const Paths& paths, const Record& record, const std::string& name);
  static std::map<std::string, std::string> environment();

 private:
  Cluster() = default;
  [[nodiscard]] Status write_config(const Node& node);
  [[nodiscard]] Status cable(const Node& node);

  struct Starting {
    std::string name;
    Child child;
    NotifySocket notify;
    std::string log;
  };
  Paths paths_;
  Record record_;
  std::vector<Starting> starting_;
  std::map<std::string, NotifySocket> notify_;
  std::optional<Lock> lock_;
  std::map<std::string, Fd> namespaces_;
  std::map<std::string, Wire> wires_;
};

/// Body of the hidden command `lab vm-listen`: greets on the ports given, until it is ended.
int vm_listen_main(int argc, char** argv);
inline constexpr std::string_view kBanner = "SSH-2.0-calico_lab";

}  // namespace calico::lab
