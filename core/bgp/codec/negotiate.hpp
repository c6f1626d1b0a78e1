#pragma once
/// What two OPENs allow, as the contexts that messages are read and written with. Pure. Thread: any. Errors: none: what
/// only one side announced is not used. RFC: 5492 3; 4760 8; 6793 4.1; 7911 4; 8654 4; 8950 4; 2918; 7313.
#include "core/bgp/codec/update.hpp"

namespace calico::bgp {

struct Negotiated {
  bool families[2]{};  ///< IPv4, IPv6
  CodecContext in;
  EncodeContext out[2];
  bool as4_out = false;  ///< attributes go out with 4-octet AS numbers
  bool refresh = false, enhanced_refresh = false;
};

[[nodiscard]] Negotiated negotiate(const Capabilities& ours, const Capabilities& theirs, bool ibgp);

}  // namespace calico::bgp
