<?php
// phpredis: what applications do with it, and what its pipelines hold beyond any prefix. Arguments: host, port.
[, $host, $port] = $argv;
$redis = new Redis();
$redis->connect($host, (int) $port);

function attempt(callable $work): void
{
    try {
        $work();
    } catch (RedisException $error) {
        echo $error->getMessage(), "\n";
    }
}

$redis->set('large:1', str_repeat('secret', 2_000_000));
echo strlen($redis->get('large:1')), "\n";
$redis->select(4);
$pipeline = $redis->pipeline();
for ($number = 0; $number < 24; $number++) {
    $pipeline->set("user:" . $number * 7, str_repeat('secret', $number % 5));
}
$pipeline->exec();
$pipeline = $redis->pipeline();
for ($number = 0; $number < 24; $number++) {
    $pipeline->get("user:" . $number * 7);
}
echo count($pipeline->exec()), "\n";
$redis->multi();
$redis->incr('visits:2024-01-31');
$redis->rPush('queue:1', 'secret');
$redis->exec();
attempt(fn() => $redis->lPush('user:7', 'secret'));
attempt(fn() => $redis->evalSha(sha1('secret'), ['user:7', 'secret'], 1));
attempt(fn() => $redis->auth('secret'));
$redis->rawCommand('BITOP', 'AND', 'both:1', 'user:7', 'user:14');
$redis->blPop(['queue:2'], 1);

// Messages that come as long as nothing is asked.
$publisher = pcntl_fork();
if ($publisher === 0) {
    usleep(200_000);
    $other = new Redis();
    $other->connect($host, (int) $port);
    for ($number = 0; $number < 3; $number++) {
        $other->publish('news:1', 'secret');
        usleep(10_000);
    }
    $other->close();
    exit(0);
}
$left = 3;
// It goes on reading when its own callback has unsubscribed, until that takes too long.
$redis->setOption(Redis::OPT_READ_TIMEOUT, 0.5);
attempt(fn() => $redis->subscribe(['news:1'], function (Redis $redis) use (&$left): void {
    if (--$left === 0) {
        $redis->unsubscribe(['news:1']);
    }
}));
pcntl_waitpid($publisher, $status);
$redis->close();
