<?php
// PHP's Memcached, on libmemcached: many keys at once by both protocols. Arguments: host, port.
[, $host, $port] = $argv;
foreach ([false, true] as $binary) {
    $client = new Memcached();
    $client->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $client->setOption(Memcached::OPT_TCP_NODELAY, true);
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    $client->addServer($host, (int) $port);
    $client->setMulti(['user:1' => 'secret', 'user:2' => str_repeat('secret', 100), 'user:3' => 'secret']);
    $keys = array_map(fn(int $number): string => "user:$number", range(1, 30));
    echo count($client->getMulti($keys)), "\n";
    $client->set('count:1', 5);
    $client->increment('count:1');
    $client->increment('count:2');
    $client->increment('user:1');
    $client->add('user:1', 'secret');
    $client->replace('user:99', 'secret');
    $client->append('user:1', 'secret');
    $client->set('large:1', str_repeat('secret', 200_000));
    $client->touch('user:1', 60);
    $client->deleteMulti(['user:1', 'user:2', 'user:98']);
    $client->setOption(Memcached::OPT_NO_BLOCK, true);
    $client->setOption(Memcached::OPT_BUFFER_WRITES, true);
    for ($number = 0; $number < 12; $number++) {
        $client->set("session:$number", 'secret');
    }
    $client->get('session:3');
    $client->quit();
}
