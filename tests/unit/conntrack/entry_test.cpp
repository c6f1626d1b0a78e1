// Entries of the connection table: decoding of what a kernel (6.18) sent, requests, damaged messages.
#include "core/conntrack/entry.hpp"

#include <gtest/gtest.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include <random>

namespace calico::conntrack {
namespace {

using netlink::Attrs;
using netlink::Bytes;
using netlink::Message;

// Recorded in a namespace: a datagram and a ping over IPv6, TCP to 10.9.0.2:80 translated to 10.9.0.1:8080, and a
// datagram whose zone is 6 in the original direction only.
constexpr const char* kUdp6 =
    "d40000000001020007000000617000000a0000004c0001802c00018014000300fd09000000000000000000000000000114000400fd09000000"
    "00"
    "000000000000000000011c0002800500010011000000060002001bbd0000060003001b5a00004c0002802c00018014000300fd090000000000"
    "00"
    "000000000000000114000400fd0900000000000000000000000000011c0002800500010011000000060002001b5a0000060003001bbd000008"
    "00"
    "030000000188080008000000000008000c008f979a2608000b0000000001080007000000001d";
constexpr const char* kPing6 =
    "e40000000001020007000000617000000a000000540001802c00018014000300fd09000000000000000000000000000114000400fd09000000"
    "00"
    "0000000000000000000124000280050001003a00000006000700004d000005000800800000000500090000000000540002802c000180140003"
    "00"
    "fd09000000000000000000000000000114000400fd09000000000000000000000000000124000280050001003a00000006000700004d000005"
    "00"
    "0800810000000500090000000000080003000000018a080008000000000008000c00a693a76208000b0000000001080007000000001d";
constexpr const char* kDnat4 =
    "d4000000000102000700000061700000020000003400018014000180080001000a090001080002000a0900021c000280050001000600000006"
    "00"
    "02009c40000006000300005000003400028014000180080001000a090001080002000a0900011c0002800500010006000000060002001f9000"
    "00"
    "060003009c40000008000300000001ae080008000000000008000c00030e1c0508000b0000000001080007000006977f300004802c00018005"
    "00"
    "010003000000050002000a000000050003000a00000006000400230000000600050023000000";
constexpr const char* kZone4 =
    "ac000000000102000700000061700000020000003c00018014000180080001000a090001080002000a0900011c000280050001001100000006"
    "00"
    "02001bbc0000060003001b59000006000300000600003400028014000180080001000a090001080002000a0900011c00028005000100110000"
    "00"
    "060002001b590000060003001bbc00000800030000000188080008000000000008000c006cd6d98b08000b0000000001080007000000001d";

Bytes bytes(const std::string& hex) {
  Bytes out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return out;
}

std::optional<Entry> read(const Bytes& b) {
  std::optional<Entry> out;
  // A copy of the exact size: what is read past it is seen by the sanitizer.
  const Bytes exact(b.begin(), b.end());
  netlink::for_each_message(exact, [&](const Message& m) { out = decode(m); });
  return out;
}

TEST(ConntrackEntry, WhatTheKernelSends) {
  auto e = read(bytes(kUdp6));
  ASSERT_TRUE(e);
  EXPECT_EQ(to_string(e->orig), "protocol 17 fd09::1 7101 > fd09::1 7002");
  EXPECT_EQ(to_string(e->reply), "protocol 17 fd09::1 7002 > fd09::1 7101");
  EXPECT_EQ(e->status, 0x188U);
  EXPECT_EQ(e->id, 0x8f979a26U);
  EXPECT_EQ(e->zone, 0);
  e = read(bytes(kPing6));
  ASSERT_TRUE(e);
  EXPECT_EQ(to_string(e->orig), "protocol 58 fd09::1 > fd09::1 type 128 code 0 id 77");
  EXPECT_EQ(e->reply.icmp_type, 129);
  EXPECT_EQ(e->orig.src_port, 0);
  EXPECT_TRUE(e->status & kSeenReply);
  e = read(bytes(kDnat4));
  ASSERT_TRUE(e);
  EXPECT_EQ(to_string(e->orig), "protocol 6 10.9.0.1 40000 > 10.9.0.2 80");
  EXPECT_EQ(to_string(e->reply), "protocol 6 10.9.0.1 8080 > 10.9.0.1 40000");
  e = read(bytes(kZone4));
  ASSERT_TRUE(e);
  EXPECT_EQ(e->orig.zone, 6);
  EXPECT_EQ(e->reply.zone, 0);
}

TEST(ConntrackEntry, ADeletionNamesTheSameTuple) {
  for (const auto* hex : {kUdp6, kPing6, kDnat4, kZone4}) {
    const auto recorded = bytes(hex);
    const auto e = read(recorded);
    ASSERT_TRUE(e);
    netlink::MessageBuilder b;
    append_delete(b, *e, 3);
    int seen = 0;
    netlink::for_each_message(b.view(), [&](const Message& m) {
      ++seen;
      EXPECT_EQ(m.type, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE);
      EXPECT_EQ(m.seq, 3U);
      const auto attrs = m.attrs(sizeof(nfgenmsg));
      EXPECT_EQ(attrs.find(CTA_ID).be32(), e->id);
      netlink::for_each_message(recorded, [&](const Message& was) {
        EXPECT_EQ(m.body<nfgenmsg>().nfgen_family, was.body<nfgenmsg>().nfgen_family);
        const auto want = was.attrs(sizeof(nfgenmsg)).find(CTA_TUPLE_ORIG).data;
        const auto have = attrs.find(CTA_TUPLE_ORIG).data;
        EXPECT_TRUE(std::equal(have.begin(), have.end(), want.begin(), want.end())) << hex;
      });
    });
    EXPECT_EQ(seen, 1);
  }
}

TEST(ConntrackEntry, WhatDoesNotFitIsNoEntry) {
  const auto whole = bytes(kDnat4);
  const auto with = [&](std::size_t at, std::uint8_t v) {
    auto b = whole;
    b[at] = static_cast<std::byte>(v);
    return read(b);
  };
  ASSERT_TRUE(with(0, 0xd4)) << "positive control: nothing changed";
  EXPECT_FALSE(with(4, 2)) << "a deletion";
  EXPECT_FALSE(with(5, 2)) << "another subsystem";
  EXPECT_FALSE(with(16, 1)) << "family";
  EXPECT_FALSE(with(16, 10)) << "IPv6 with addresses of IPv4";
  EXPECT_FALSE(with(30, 9)) << "no source";
  EXPECT_FALSE(with(28, 7)) << "an address of three bytes";
  EXPECT_FALSE(with(22, 9)) << "no original tuple";
  for (std::size_t n = 0; n < whole.size(); ++n) {
    auto b = whole;
    b.resize(n);
    EXPECT_FALSE(read(b)) << n << " bytes of a longer message";
  }
}

TEST(ConntrackEntry, DamagedMessagesDoNoHarm) {
  std::mt19937 random(7);
  std::size_t read_all = 0;
  for (const auto* hex : {kUdp6, kPing6, kDnat4, kZone4}) {
    const auto whole = bytes(hex);
    for (int i = 0; i < 20000; ++i) {
      auto b = whole;
      for (auto k = 1 + random() % 4; k > 0; --k) b[4 + random() % (b.size() - 4)] = static_cast<std::byte>(random());
      const auto e = read(b);
      if (!e) continue;
      ++read_all;
      EXPECT_EQ(e->orig.src.family(), e->reply.dst.family());
      netlink::MessageBuilder out;
      append_delete(out, *e, 1);
      EXPECT_TRUE(out.ok());
    }
  }
  EXPECT_GT(read_all, 1000U) << "all of them refused: the damage never reached the inside";
}

}  // namespace
}  // namespace calico::conntrack
