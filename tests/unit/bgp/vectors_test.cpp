/// Messages that others recorded or made, in the folder that CALICO_BGP_VECTORS names (they are not part of this
/// project): exabgp/raw-messages.txt, gobgp-bad-len/, tcpdump-pcap/, mrt/. Whatever is in them, the decoder does not
/// crash, and what it accepts means the same after our encoder wrote it. Prints how much there was.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "capture_files.hpp"
#include "core/bgp/codec/update.hpp"

namespace calico::bgp::test {
namespace {

struct Count {
  std::size_t messages = 0, refused = 0, withdrawn = 0, same = 0, too_long = 0;
  void print(const std::string& what, std::size_t files) const {
    std::printf(
        "%-10s %4zu files, %7zu messages or attribute sets read: %zu refused, %zu treated as withdraw, %zu equal "
        "after encoding, %zu do not fit a message\n",
        what.c_str(), files, messages, refused, withdrawn, same, too_long);
  }
};

class BgpVectors : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("CALICO_BGP_VECTORS");
    if (folder == nullptr || *folder == '\0') {
      std::printf("skipped: CALICO_BGP_VECTORS names no folder with recorded messages\n");
      GTEST_SKIP() << "SKIPPED: CALICO_BGP_VECTORS is not set";
    }
    folder_ = folder;
    ASSERT_TRUE(std::filesystem::is_directory(folder_)) << folder_;
  }
  std::vector<std::string> files(const char* sub) {
    std::vector<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(folder_ / sub))
      if (e.is_regular_file()) out.push_back(e.path().string());
    std::sort(out.begin(), out.end());
    EXPECT_FALSE(out.empty()) << sub;
    return out;
  }

  /// Encoded and decoded again it is the same set.
  void attributes_again(const Attrs& attrs, Count& count) {
    Attrs a = attrs;
    CodecContext in;
    in.as_sets = true;
    for (const bool as4 : {true, false}) {
      in.as4 = as4;
      Bytes block;
      ASSERT_TRUE(encode_attributes(block, a, as4));
      auto back = decode_attributes(block, in);
      ASSERT_TRUE(back) << back.error().what;
      ASSERT_FALSE(back->withdraw) << back->reason;
      back->attrs.next_hop = a.next_hop;  // where it is IPv6, it stands in MP_REACH_NLRI
      ASSERT_EQ(back->attrs, a);
    }
    ++count.same;
  }
  void block(View bytes, CodecContext context, Count& count) {
    ++count.messages;
    context.ibgp = false;
    context.as_sets = true;
    auto d = decode_attributes(bytes, context);
    if (!d) {
      ++count.refused;
    } else if (d->withdraw) {
      ++count.withdrawn;
    } else {
      attributes_again(d->attrs, count);
    }
  }

  void update(View body, CodecContext context, Count& count) {
    ++count.messages;
    context.as_sets = true;
    if (!decode_update(body, context, u_)) {
      ++count.refused;
      return;
    }
    if (u_.treat_as_withdraw) {
      ++count.withdrawn;
      return;
    }
    const auto withdrawn = u_.withdrawn, announced = u_.announced, mp = u_.announced_mp;
    auto attrs = u_.attrs;
    const auto mp_next_hop = u_.mp_next_hop;
    CodecContext in = context;
    in.ibgp = true;
    attrs.local_pref = attrs.local_pref.value_or(100);
    bool fits = true;
    const auto round = [&](const std::vector<Nlri>& routes, const Ip& next_hop) {
      if (routes.empty() || next_hop.is_unspecified()) return;
      const auto family = routes[0].prefix.family();
      attrs.next_hop = next_hop;
      Bytes block, stream;
      std::size_t n = 0;
      ASSERT_TRUE(encode_attributes(block, attrs, in.as4));
      const EncodeContext out{family, in.add_path(family), in.extended_next_hop, kMaxExtendedMessage};
      if (!encode_announce(stream, n, out, block, next_hop, routes)) {
        fits = false;
        return;
      }
      ASSERT_EQ(n, 1U);
      ASSERT_TRUE(decode_update(View(stream).subspan(kHeaderSize), in, u_));
      ASSERT_FALSE(u_.treat_as_withdraw) << u_.reason;
      ASSERT_EQ(next_hop.is_v6() ? u_.announced_mp : u_.announced, routes);
      auto a = u_.attrs;
      if (next_hop.is_v6()) a.next_hop = u_.mp_next_hop;
      ASSERT_EQ(a, attrs);
    };
    round(announced, attrs.next_hop);
    round(mp, mp_next_hop);
    for (const auto family : {Family::v4, Family::v6}) {
      std::vector<Nlri> some;
      for (const auto& route : withdrawn)
        if (route.prefix.family() == family) some.push_back(route);
      if (some.empty()) continue;
      Bytes stream;
      std::size_t n = 0;
      encode_withdraw(stream, n, {family, in.add_path(family), false, kMaxExtendedMessage}, some);
      ASSERT_TRUE(decode_update(View(stream).subspan(kHeaderSize), in, u_));
      ASSERT_EQ(u_.withdrawn, some);
    }
    ++(fits ? count.same : count.too_long);
  }

  /// One message of a type whose session nobody knows: as every kind of session would read it.
  void message(std::uint8_t type, View body, Count& count) {
    switch (static_cast<MessageType>(type)) {
      case MessageType::open: {
        ++count.messages;
        const auto o = decode_open(body);
        if (!o) {
          ++count.refused;
          return;
        }
        const auto back = decode_open(View(encode_open(*o)).subspan(kHeaderSize));
        ASSERT_TRUE(back) << back.error().what;
        ASSERT_EQ(*back, *o);
        ++count.same;
        return;
      }
      case MessageType::notification: {
        ++count.messages;
        const auto n = decode_notification(body);
        if (!n) {
          ++count.refused;
          return;
        }
        for (const char c : describe(*n)) ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
        const auto back = decode_notification(View(encode_notification(*n)).subspan(kHeaderSize));
        ASSERT_TRUE(back);
        ASSERT_EQ(*back, *n);
        ++count.same;
        return;
      }
      case MessageType::route_refresh: {
        ++count.messages;
        const auto r = decode_route_refresh(body);
        if (!r) {
          ++count.refused;
          return;
        }
        ASSERT_EQ(*decode_route_refresh(View(encode_route_refresh(*r)).subspan(kHeaderSize)), *r);
        ++count.same;
        return;
      }
      case MessageType::update:
        for (unsigned bits = 0; bits < 32; ++bits) {
          CodecContext c{(bits & 1) != 0, (bits & 2) != 0, {(bits & 4) != 0, (bits & 8) != 0}, (bits & 16) != 0};
          update(body, c, count);
        }
        return;
      case MessageType::keepalive:
        return;
    }
  }
  /// Messages where a marker and a length say so; what does not fit the header check is tried as every type.
  void stream(View bytes, Count& count) {
    while (bytes.size() >= kHeaderSize) {
      std::size_t at = 0, run = 0;
      for (; at < bytes.size() && run < 16; ++at) run = bytes[at] == std::byte{0xff} ? run + 1 : 0;
      if (run < 16 || bytes.size() - at < 3) return;
      bytes = bytes.subspan(at - 16);
      const auto h = decode_header(bytes.first(kHeaderSize), kMaxExtendedMessage);
      if (!h) {
        everything(bytes.subspan(kHeaderSize), count);
        bytes = bytes.subspan(1);
        continue;
      }
      const auto size = std::min<std::size_t>(h->length, bytes.size());  // cut off: as much as there is
      const auto body = bytes.subspan(kHeaderSize, size - kHeaderSize);
      message(static_cast<std::uint8_t>(h->type), body, count);
      Count cut;
      for (std::size_t n = 0; n < std::min<std::size_t>(body.size(), 600); ++n)
        message(static_cast<std::uint8_t>(h->type), body.first(n), cut);
      bytes = bytes.subspan(size);
    }
  }
  void everything(View bytes, Count& count) {
    for (std::uint8_t type = 1; type <= 5; ++type) message(type, bytes, count);
  }

  std::filesystem::path folder_;
  Update u_;
};

TEST_F(BgpVectors, RawMessages) {
  Count count;
  std::ifstream in(folder_ / "exabgp" / "raw-messages.txt");
  std::size_t lines = 0;
  for (std::string line; std::getline(in, line); ++lines) {
    // N:raw:MARKER:LENGTH:TYPE:BODY
    Bytes b;
    int nibble = -1;
    const auto raw = line.find(":raw:");
    ASSERT_NE(raw, std::string::npos) << line;
    for (const char c : line.substr(raw + 5)) {
      const int v = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
      if (v < 0) continue;
      if (nibble >= 0) b.push_back(static_cast<std::byte>(nibble << 4 | v));
      nibble = nibble < 0 ? v : -1;
    }
    SCOPED_TRACE(line);
    stream(b, count);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(count.same, lines);
  count.print("exabgp", 1);
}

TEST_F(BgpVectors, BadLengths) {
  Count count;
  const auto list = files("gobgp-bad-len");
  for (const auto& f : list) {
    SCOPED_TRACE(f);
    const auto b = read_file(f);
    everything(b, count);
    if (b.size() > kHeaderSize) everything(View(b).subspan(kHeaderSize), count);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(count.refused, 0U);
  count.print("bad-len", list.size());
}

TEST_F(BgpVectors, Captures) {
  Count count;
  std::size_t streams = 0;
  auto list = files("tcpdump-pcap");
  for (const auto& f : files("mrt"))
    if (f.ends_with(".cap")) list.push_back(f);
  for (const auto& f : list) {
    SCOPED_TRACE(f);
    Streams s;
    EXPECT_TRUE(read_capture(read_file(f), s));
    s.each([&](View bytes) {
      ++streams;
      stream(bytes, count);
    });
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(streams, list.size() / 2);
  count.print("captures", list.size());
}

TEST_F(BgpVectors, Mrt) {
  Count count;
  std::size_t n = 0, records = 0;
  for (const auto& f : files("mrt")) {
    if (f.ends_with(".rst") || f.ends_with(".cap")) continue;
    SCOPED_TRACE(f);
    ++n;
    MrtHandler to;
    to.message = [&](std::uint8_t type, View body, const CodecContext& context) {
      if (type != static_cast<std::uint8_t>(MessageType::update)) return message(type, body, count);
      auto c = context;
      c.ibgp = false;
      if (!HasFatalFailure()) update(body, c, count);
    };
    to.attributes = [&](View bytes, const CodecContext& context) {
      if (!HasFatalFailure()) block(bytes, context, count);
    };
    const auto bytes = f.ends_with(".gz") ? read_gzip(f) : read_file(f);
    EXPECT_FALSE(bytes.empty());
    const auto got = read_mrt(bytes, to);
    EXPECT_GT(got, 0U);
    records += got;
    if (HasFatalFailure()) return;
  }
  EXPECT_LT(count.refused + count.withdrawn, count.messages / 1000) << "what real speakers said";
  std::printf("mrt        %zu records\n", records);
  count.print("mrt", n);
}

}  // namespace
}  // namespace calico::bgp::test
