<?php
// MongoDB's driver for PHP, on libmongoc: the same commands in every run. Argument: host:port.
[, $address, $rounds] = $argv;
$manager = new MongoDB\Driver\Manager("mongodb://$address");

function run(callable $work): void
{
    try {
        $work();
    } catch (MongoDB\Driver\Exception\Exception $error) {
        echo get_class($error), ' ', $error->getCode(), "\n";
    }
}

function write(MongoDB\Driver\Manager $manager, callable $add): void
{
    $bulk = new MongoDB\Driver\BulkWrite();
    $add($bulk);
    run(fn() => $manager->executeBulkWrite('shop.item', $bulk));
}

for ($number = 0; $number < (int) $rounds; $number++) {
    write($manager, fn($bulk) => $bulk->insert(['_id' => $number, 'name' => 'a secret']));
    write($manager, fn($bulk) => $bulk->update(['_id' => $number], ['$set' => ['name' => 'a new secret']]));
    $query = new MongoDB\Driver\Query(['_id' => $number]);
    run(fn() => iterator_count($manager->executeQuery('shop.item', $query)));
}
write($manager, fn($bulk) => $bulk->insert(['_id' => 0, 'name' => 'a secret']));
write($manager, fn($bulk) => $bulk->delete(['_id' => 0]));
$count = new MongoDB\Driver\Command(['count' => 'item', 'query' => (object) []]);
run(fn() => $manager->executeCommand('shop', $count));
run(fn() => $manager->executeCommand('shop', new MongoDB\Driver\Command(['drop' => 'nowhere'])));
