#pragma once
/// `calico-node store watch`: changes of the datastore as lines, for as long as an operator listens.
///
///   GET /store/watch?key=K[&prefix=yes][&from=REVISION]     on the control socket; without a key all of /calico/
///
/// A line is one JSON object: {"watching":K,"revision":R} first; then changes, {"type":"put","key","value","revision",
/// "version","lease"} or {"type":"delete","key","revision"}; {"lost":why} while the datastore is away, after which it
/// goes on where it was; {"error":why} as the last one, when it cannot go on (compacted, no rights).
///
/// Thread: the control loop. Owns: nothing; the datastore outlives the control server.
#include "core/module/context.hpp"

namespace calico::store {
class Datastore;
}

namespace calico::node {

[[nodiscard]] module::ControlStream watch_store(store::Datastore& datastore);

}  // namespace calico::node
