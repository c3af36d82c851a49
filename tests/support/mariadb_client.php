<?php
// mysqlnd: PDO with statements of the server, each prepared, executed and closed; mysqli with several statements in
// a query, results of a procedure, long data and a cursor. Arguments: host, port.
[, $host, $port] = $argv;
$pdo = new PDO("mysql:host=$host;port=$port;dbname=shop", 'root', '', [
    PDO::ATTR_EMULATE_PREPARES => false,
    PDO::ATTR_ERRMODE => PDO::ERRMODE_SILENT,
]);
for ($number = 0; $number < 3; $number++) {
    $statement = $pdo->prepare('INSERT INTO item VALUES (?, ?)');
    $statement->execute([$number, "name $number"]);
    $statement = $pdo->prepare('SELECT name FROM item WHERE id = ?');
    $statement->execute([$number]);
    echo count($statement->fetchAll()), "\n";
}
$pdo->prepare('SELECT * FROM nowhere');
echo $pdo->errorCode(), "\n";
$statement = $pdo = null;

mysqli_report(MYSQLI_REPORT_OFF);
$session = new mysqli($host, 'root', '', 'shop', (int) $port);
$session->query('CREATE PROCEDURE both_of() BEGIN SELECT 1 AS a; SELECT 2 AS b; END');
foreach (["UPDATE item SET name = 'x' WHERE id = 1; SELECT 2; SELECT * FROM nowhere", 'CALL both_of()'] as $query) {
    $session->multi_query($query);
    do {
        $session->store_result();
    } while ($session->more_results() && $session->next_result());
}
$statement = $session->prepare('INSERT INTO item VALUES (1, ?)');
$text = null;
$statement->bind_param('b', $text);
for ($number = 0; $number < 2; $number++) {
    $statement->send_long_data(0, str_repeat('x', 50));
}
$statement->execute();
$statement->reset();
$statement->close();
$statement = $session->prepare('SELECT id FROM item');
$statement->attr_set(MYSQLI_STMT_ATTR_CURSOR_TYPE, MYSQLI_CURSOR_TYPE_READ_ONLY);
$statement->execute();
$statement->bind_result($id);
while ($statement->fetch()) {
}
$session->change_user('root', '', 'mysql');
$session->select_db('shop');
$session->close();
