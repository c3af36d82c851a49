import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Statement;

/**
 * Uses a MariaDB server through MariaDB Connector/J, which sends a batch without waiting for replies:
 * java -cp mariadb-java-client.jar mariadb_client.java URL ROWS.
 */
class MariaDbClient {
    public static void main(String[] arguments) throws Exception {
        int rows = Integer.parseInt(arguments[1]);
        for (String prepares : new String[] {"false", "true"}) {
            String url = arguments[0] + "&useBulkStmts=false&useServerPrepStmts=" + prepares;
            try (Connection session = DriverManager.getConnection(url)) {
                insert(session, rows);
                select(session);
                fail(session);
            }
        }
    }

    static void insert(Connection session, int rows) throws SQLException {
        session.setAutoCommit(false);
        try (PreparedStatement statement = session.prepareStatement("INSERT INTO item VALUES (?, ?)")) {
            for (int number = 0; number < rows; number++) {
                statement.setInt(1, number);
                statement.setString(2, "name " + number);
                statement.addBatch();
            }
            statement.executeBatch();
        }
        session.commit();
        session.setAutoCommit(true);
    }

    static void select(Connection session) throws SQLException {
        try (PreparedStatement statement = session.prepareStatement("SELECT name FROM item WHERE id = ?")) {
            for (int number = 0; number < 2; number++) {
                statement.setInt(1, number);
                statement.executeQuery().close();
            }
        }
    }

    static void fail(Connection session) {
        try (Statement statement = session.createStatement()) {
            statement.execute("SELECT * FROM nowhere");
        } catch (SQLException error) {
            System.out.println(error.getErrorCode());
        }
    }
}
