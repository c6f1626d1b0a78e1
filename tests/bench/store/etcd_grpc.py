"""Puts over etcd's gRPC, for comparison with its JSON gateway: etcd_grpc.py PORT ALONE CLIENTS TOTAL.

The messages are written by hand (etcdserverpb.PutRequest: 1 = key, 2 = value), so that no generated code is needed.
Exit 1, aloud, without python3-grpcio.
"""
import sys
import time

try:
    import grpc
except ImportError:
    print("python3-grpcio is not installed")
    sys.exit(1)

port, alone, clients, total = (int(a) for a in sys.argv[1:5])


def varint(n):
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def put(i):
    key, value = b"/calico/grpc/%06d" % i, b"%06d" % i + b"x" * 1400
    return b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value


channel = grpc.insecure_channel("127.0.0.1:%d" % port)
call = channel.unary_unary("/etcdserverpb.KV/Put")
took = []
for i in range(alone):
    start = time.perf_counter()
    call(put(i), timeout=30)
    took.append((time.perf_counter() - start) * 1000)
took.sort()
print("%d puts, one at a time: p50 %.3f ms, p99 %.3f ms" % (alone, took[len(took) // 2], took[len(took) * 99 // 100]))

start = time.perf_counter()
waiting, sent = [], 0
while sent < total or waiting:
    while sent < total and len(waiting) < clients:
        waiting.append(call.future(put(sent), timeout=30))
        sent += 1
    waiting.pop(0).result()
print("%d puts, %d under way: %.0f puts/s (the client, python, included)" % (total, clients, total / (time.perf_counter() - start)))
