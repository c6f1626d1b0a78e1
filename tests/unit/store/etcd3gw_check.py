"""What OpenStack's Neutron driver and DHCP agent do with a datastore, by the library they do it with (python etcd3gw).

    etcd3gw_check.py HOST PORT [long]       exit 0: all as expected; 77: python3-etcd3gw is not there; 1: says why
"""
import queue
import sys

try:
    import etcd3gw  # noqa: F401
    from etcd3gw import exceptions
    from etcd3gw import watch
    from etcd3gw.client import Etcd3Client
    from etcd3gw.utils import _encode, _decode
except ImportError as e:
    print(e)
    sys.exit(77)


def check(what, got, expected):
    if got != expected:
        raise SystemExit("%s: got %r, expected %r" % (what, got, expected))


def main(host, port, long_lines):
    client = Etcd3Client(host=host, port=port, timeout=30, api_path='/v3/')
    first = int(client.status()['header']['revision'])

    # Keys.
    check('put', client.put('/gw/a', '1'), True)
    check('get', client.get('/gw/a'), [b'1'])
    check('get of nothing', client.get('/gw/none'), [])
    value, meta = client.get('/gw/a', metadata=True)[0]
    check('version', meta['version'], '1')
    check('mod revision', int(meta['mod_revision']), first + 1)
    check('create', client.create('/gw/b', 'x'), True)
    check('create again', client.create('/gw/b', 'y'), False)
    check('replace', client.replace('/gw/b', 'x', 'y'), True)
    check('replace with another value', client.replace('/gw/b', 'x', 'z'), False)
    check('prefix', [v for v, _ in client.get_prefix('/gw/', sort_order='descend', sort_target='key')], [b'y', b'1'])
    check('delete', client.delete('/gw/b'), True)
    check('delete again', client.delete('/gw/b'), False)
    check('create with default', client.transaction({
        'compare': [{'key': _encode('/gw/c'), 'result': 'EQUAL', 'target': 'VERSION', 'version': 0}],
        'success': [{'request_put': {'key': _encode('/gw/c'), 'value': _encode('1')}}],
        'failure': [{'request_range': {'key': _encode('/gw/c')}}]}).get('succeeded'), True)
    check('update of what is there', client.transaction({
        'compare': [{'key': _encode('/gw/c'), 'result': 'NOT_EQUAL', 'target': 'VERSION', 'version': 0}],
        'success': [{'request_put': {'key': _encode('/gw/c'), 'value': _encode('2')}}]}).get('succeeded'), True)

    # A snapshot in pages at one revision, newest key first, as the driver's watcher takes it.
    for i in range(45):
        client.put('/gw/page/%03d' % i, str(i))
    revision = client.status()['header']['revision']
    client.put('/gw/page/999', 'later')
    seen = []
    end = '/gw/page0'
    while True:
        answer = client.post(client.get_url('/kv/range'), json={
            'key': _encode('/gw/page/'), 'range_end': _encode(end), 'limit': 20, 'revision': revision,
            'sort_order': 'DESCEND', 'sort_target': 'KEY'})
        page = [_decode(kv['key']).decode() for kv in answer.get('kvs', [])]
        seen += page
        if not answer.get('more'):
            break
        end = page[-1]
    check('pages', seen, ['/gw/page/%03d' % i for i in reversed(range(45))])

    # Leases, as felix's status and the election use them.
    lease = client.lease(ttl=60)
    client.put('/gw/leased', 'x', lease=lease)
    check('keys of the lease', lease.keys(), [b'/gw/leased'])
    check('refresh', lease.refresh(), 60)
    check('ttl', 0 < lease.ttl() <= 60, True)
    check('revoke', lease.revoke(), True)
    check('gone with its lease', client.get('/gw/leased'), [])
    try:
        client.put('/gw/leased', 'x', lease=lease)
        raise SystemExit('a put with a revoked lease was taken')
    except exceptions.Etcd3Exception:
        pass

    # A watch: the library decodes each HTTP chunk as one JSON text, so a chunk must be a line. etcd 3.4 puts the end of a
    # line of more than 2 KiB into a chunk of its own, and the library's thread then dies: long lines are for us alone.
    size = 2000 if long_lines else 1
    past = 50 if long_lines else 0
    start = int(client.status()['header']['revision']) + 1
    for i in range(past):
        client.put('/gw/w/%02d' % i, 'v' * (i * size))
    events = queue.Queue()
    watcher = watch.Watcher(client, '/gw/w/', events.put, range_end='/gw/w0', start_revision=start)
    for i in range(past, 100):
        client.put('/gw/w/%02d' % i, 'v' * (i * size))
    client.delete('/gw/w/00')
    for i in range(100):
        event = events.get(timeout=30)
        check('event', event['kv']['key'], ('/gw/w/%02d' % i).encode())
        check('its value', len(event['kv'].get('value', b'')), i * size)
    event = events.get(timeout=30)
    check('deletion', (event['type'], event['kv']['key']), ('DELETE', b'/gw/w/00'))
    watcher.stop()

    # Compaction, as the driver does it hourly.
    now = int(client.status()['header']['revision'])
    client.post(client.get_url('/kv/compaction'), json={'revision': now - 5})
    try:
        client.post(client.get_url('/kv/range'), json={'key': _encode('/gw/a'), 'revision': first})
        raise SystemExit('a compacted revision was read')
    except exceptions.Etcd3Exception as e:
        check('says so', 'compacted' in e.detail_text, True)
    check('delete_prefix', client.delete_prefix('/gw/'), True)
    print('all as expected')


main(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ['long'])
