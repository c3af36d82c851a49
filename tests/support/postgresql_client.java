import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.sql.Statement;
import org.postgresql.PGConnection;

/** Uses a PostgreSQL server through JDBC: java -cp postgresql.jar postgresql_client.java URL EXECUTIONS ROWS. */
class PostgreSqlClient {
    interface Use {
        void run() throws SQLException;
    }

    /** Tells the SQLSTATE of what is to fail. */
    static void fails(Use use) {
        try {
            use.run();
        } catch (SQLException error) {
            System.out.println(error.getSQLState());
        }
    }

    public static void main(String[] arguments) throws Exception {
        int executions = Integer.parseInt(arguments[1]);
        int rows = Integer.parseInt(arguments[2]);
        try (Connection session = DriverManager.getConnection(arguments[0])) {
            execute(session, executions);
            insert(session, rows);
            fetch(session);
            session.setAutoCommit(true);
            copy(session);
        }
    }

    /** The fifth execution is the first of a statement with a name. */
    static void execute(Connection session, int executions) throws SQLException {
        try (PreparedStatement statement = session.prepareStatement("SELECT 6 / ? AS share")) {
            for (int number = executions - 1; number >= 0; number--) {
                statement.setInt(1, number);
                fails(() -> statement.executeQuery().close());
            }
        }
    }

    /** One batch that succeeds, and one that fails with its first row. */
    static void insert(Connection session, int rows) throws SQLException {
        try (PreparedStatement statement = session.prepareStatement("INSERT INTO item VALUES (?, ?)")) {
            for (int batch = 0; batch < 2; batch++) {
                for (int number = 0; number < rows; number++) {
                    statement.setInt(1, number);
                    statement.setString(2, "name " + number);
                    statement.addBatch();
                }
                fails(() -> statement.executeBatch());
            }
        }
        try (Statement statement = session.createStatement()) {
            for (String name : new String[] {"a", "b", "c"}) {
                statement.addBatch("UPDATE item SET name = '" + name + "' WHERE id = 1");
            }
            statement.executeBatch();
        }
    }

    /** A portal is fetched from in several turns; a transaction is aborted; a function is called. */
    static void fetch(Connection session) throws SQLException {
        session.setAutoCommit(false);
        try (PreparedStatement statement = session.prepareStatement("SELECT generate_series(1, 5)")) {
            statement.setFetchSize(2);
            var result = statement.executeQuery();
            while (result.next()) {}
        }
        fails(() -> session.createStatement().execute("SELECT * FROM nowhere"));
        fails(() -> session.createStatement().execute("SELECT 'aborted'"));
        session.rollback();
        session.unwrap(PGConnection.class).getLargeObjectAPI().createLO();
        session.commit();
    }

    static void copy(Connection session) throws Exception {
        var manager = session.unwrap(PGConnection.class).getCopyAPI();
        manager.copyIn("COPY item FROM STDIN", new StringReader("1001\tseven\n1002\teight\n"));
        manager.copyOut("COPY item TO STDOUT", new StringWriter());
    }
}
