<?php
// PDO: a statement of the server for each query, under a name that is counted up, and dropped again; in a
// transaction, again with other values, and with errors in each of the three. Arguments: host, port.
[, $host, $port] = $argv;
$pdo = new PDO("pgsql:host=$host;port=$port;dbname=shop;sslmode=disable", 'postgres', '', [
    PDO::ATTR_ERRMODE => PDO::ERRMODE_SILENT,
]);
$pdo->beginTransaction();
for ($number = 0; $number < 3; $number++) {
    $statement = $pdo->prepare('INSERT INTO item VALUES (?, ?)');
    $statement->execute([$number, "name $number"]);
    $statement = $pdo->prepare('SELECT name FROM item WHERE id = ?');
    $statement->execute([$number]);
    echo count($statement->fetchAll()), "\n";
}
$pdo->commit();
$statement = $pdo->prepare('SELECT 1 / ?::int');
foreach ([1, 0] as $number) {
    $statement->execute([$number]);
    echo $statement->errorCode(), "\n";
}
$statement = $pdo->prepare('SELECT * FROM nowhere WHERE id = ?');
$statement->execute([1]);
echo $statement->errorCode(), "\n";
$pdo->query('DEALLOCATE nothing');
echo $pdo->errorCode(), "\n";
