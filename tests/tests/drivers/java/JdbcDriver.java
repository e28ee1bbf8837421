// JDBC. Variables: PORT, DATABASE, LOGIN (trust or scram). Prints what it has seen; the last line is "done".

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class JdbcDriver {
    static final String URL =
        "jdbc:postgresql://127.0.0.1:" + System.getenv("PORT") + "/" + System.getenv("DATABASE");

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "postgres");
        for (int i = 0; i < more.length; i += 2) {
            properties.setProperty(more[i], more[i + 1]);
        }
        return DriverManager.getConnection(URL, properties);
    }

    static void say(Object what) {
        System.out.println(what);
    }

    static String rows(ResultSet result) throws SQLException {
        StringBuilder out = new StringBuilder();
        int columns = result.getMetaData().getColumnCount();
        while (result.next()) {
            for (int i = 1; i <= columns; i++) {
                out.append(i > 1 ? "," : "").append(result.getString(i));
            }
            out.append(';');
        }
        result.close();
        return out.toString();
    }

    static String ask(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            return rows(statement.executeQuery(text));
        }
    }

    static void run(Connection connection, String text) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(text);
        }
    }

    interface Work {
        void run() throws SQLException;
    }

    static String failure(Work work) {
        try {
            work.run();
        } catch (SQLException error) {
            return error.getSQLState();
        }
        return "none";
    }

    /** More often than the threshold, so that it is prepared by the server; then with a change of the result. */
    static void prepared(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("select a, b from t where a > ? order by a")) {
            for (int i = 0; i < 20; i++) {
                statement.setInt(1, 6);
                say("prepared " + rows(statement.executeQuery()));
            }
            run(connection, "alter table t alter column b type varchar(40)");
            statement.setInt(1, 6);
            say("changed " + rows(statement.executeQuery()));
            connection.setAutoCommit(false);
            rows(statement.executeQuery());
            run(connection, "alter table t alter column b type text");
            say("changed inside " + failure(() -> rows(statement.executeQuery())));
            connection.rollback();
            say("after " + rows(statement.executeQuery()));
            connection.commit();
            connection.setAutoCommit(true);
        }
        for (int i = 0; i < 300; i++) {
            try (PreparedStatement statement = connection.prepareStatement("select ? + " + i)) {
                statement.setInt(1, i);
                if (!rows(statement.executeQuery()).equals(2 * i + ";")) {
                    say("wrong sum " + i);
                }
            }
        }
    }

    static void batches(Connection connection) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement("insert into t (a, b) values (?, ?)")) {
            for (int i = 0; i < 700; i++) {
                statement.setInt(1, 100 + i);
                statement.setString(2, "row " + i);
                statement.addBatch();
            }
            say("batch " + statement.executeBatch().length);
        }
        String[] wanted = {"id"};
        try (PreparedStatement statement = connection.prepareStatement("insert into t (a, b) values (1000, 'x')", wanted)) {
            statement.executeUpdate();
            say("key " + rows(statement.getGeneratedKeys()));
        }
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("update t set b = 'y' where a = 1000", Statement.RETURN_GENERATED_KEYS);
            say("keys " + rows(statement.getGeneratedKeys()));
            statement.addBatch("delete from t where a = 1000");
            statement.addBatch("insert into t (a, b) values (1001, 'z')");
            say("mixed " + statement.executeBatch().length);
        }
    }

    static void cursors(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement statement = connection.prepareStatement("select a from t order by a")) {
            statement.setFetchSize(17);
            for (int round = 0; round < 7; round++) {
                long sum = 0;
                ResultSet result = statement.executeQuery();
                while (result.next()) {
                    sum += result.getInt(1);
                }
                say("cursor " + sum);
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void transactions(Connection connection) throws SQLException {
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        connection.setAutoCommit(false);
        say("isolation " + ask(connection, "show transaction_isolation"));
        run(connection, "insert into t (a, b) values (1, 'kept')");
        Savepoint savepoint = connection.setSavepoint("here");
        say("unique " + failure(() -> run(connection, "insert into t (id, a) select min(id), 1 from t")));
        say("aborted " + failure(() -> ask(connection, "select 1")));
        connection.rollback(savepoint);
        connection.commit();
        connection.setReadOnly(true);
        say("read only " + failure(() -> run(connection, "insert into t (a) values (2)")));
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
        connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        say("isolation " + ask(connection, "show transaction_isolation") + ask(connection, "select b from t where a = 1"));
    }

    static void autosave() throws SQLException {
        try (Connection connection = connect("autosave", "always")) {
            connection.setAutoCommit(false);
            run(connection, "insert into t (a, b) values (2, 'saved')");
            say("autosave " + failure(() -> run(connection, "select 1 / 0")));
            try (PreparedStatement statement = connection.prepareStatement("select count(*) from t where a = ?")) {
                for (int i = 0; i < 8; i++) {
                    statement.setInt(1, 2);
                    say("autosave " + rows(statement.executeQuery()));
                }
            }
            connection.commit();
        }
    }

    static void copies(Connection connection) throws Exception {
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder data = new StringBuilder();
        for (int i = 0; i < 500; i++) {
            data.append(5000 + i).append("\tcopied\n");
        }
        byte[] bytes = data.toString().getBytes(StandardCharsets.UTF_8);
        say("copy in " + copy.copyIn("copy t (a, b) from stdin", new ByteArrayInputStream(bytes)));
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        say("copy out " + copy.copyOut("copy (select a from t order by a) to stdout", out) + " " + out.size());
        say("copy bad " + failure(() -> {
            try {
                copy.copyIn("copy t (a, b) from stdin", new ByteArrayInputStream("x\ty\n".getBytes()));
            } catch (java.io.IOException error) {
                throw new SQLException(error);
            }
        }));
    }

    static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData data = connection.getMetaData();
        say("tables " + rows(data.getTables(null, "public", "%", new String[] {"TABLE"})));
        say("columns " + rows(data.getColumns(null, "public", "t", "%")));
        say("keys " + rows(data.getPrimaryKeys(null, "public", "t")));
        say("indexes " + rows(data.getIndexInfo(null, "public", "t", false, false)));
        say("types " + rows(data.getTypeInfo()).length());
        say("schema " + connection.getSchema() + " valid " + connection.isValid(5));
    }

    static void notified(Connection connection) throws Exception {
        run(connection, "listen jdbc_news");
        try (Connection other = connect()) {
            run(other, "notify jdbc_news, 'hello'");
        }
        PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(10_000);
        say("heard " + heard[0].getName() + " " + heard[0].getParameter());
        run(connection, "unlisten *");
    }

    static void limits() throws Exception {
        try (Connection connection = connect()) {
            try (Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                say("timeout " + failure(() -> statement.execute("select pg_sleep(30)")));
                Thread canceller = new Thread(() -> {
                    try {
                        Thread.sleep(500);
                        statement.cancel();
                    } catch (Exception error) {
                        say(error);
                    }
                });
                statement.setQueryTimeout(0);
                canceller.start();
                say("cancel " + failure(() -> statement.execute("select pg_sleep(30)")));
                canceller.join();
            }
            say("after " + ask(connection, "select 1"));
            connection.setNetworkTimeout(Runnable::run, 500);
            say("network " + failure(() -> run(connection, "select pg_sleep(30)")) + " " + connection.isClosed());
        }
    }

    /** The settings that one has are never another's. */
    static String one(int number) throws SQLException {
        StringBuilder out = new StringBuilder();
        try (Connection connection = connect("ApplicationName", "client " + number)) {
            run(connection, "set work_mem = '" + (1000 + number) + "kB'");
            for (int round = 0; round < 12; round++) {
                try (PreparedStatement statement = connection.prepareStatement("select ?::int, current_setting('work_mem'), "
                        + "current_setting('application_name'), (select count(*) from t where a = ?)")) {
                    statement.setInt(1, round);
                    statement.setInt(2, 100 + number);
                    out.append(rows(statement.executeQuery()));
                }
            }
            connection.setAutoCommit(false);
            run(connection, "create temp table mine as select " + number + " as n");
            connection.commit();
            out.append(ask(connection, "select n from mine"));
            connection.commit();
            run(connection, "drop table mine");
            connection.commit();
        }
        return out.toString();
    }

    static void crowd() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(8);
        List<Callable<String>> all = new ArrayList<>();
        for (int i = 0; i < 16; i++) {
            int number = i;
            all.add(() -> one(number));
        }
        for (Future<String> answer : threads.invokeAll(all)) {
            say("one " + answer.get());
        }
        threads.shutdown();
    }

    public static void main(String[] arguments) throws Exception {
        if ("scram".equals(System.getenv("LOGIN"))) {
            try (Connection connection = connect("user", "alice", "password", "secret", "sslmode", "require")) {
                say("logged in " + ask(connection, "select 1"));
            }
            say("done");
            return;
        }
        try (Connection connection = connect()) {
            run(connection, "create table t (id serial primary key, a int, b text)");
            run(connection, "insert into t (a, b) select n, 'row ' || n from generate_series(1, 9) n");
            prepared(connection);
            batches(connection);
            cursors(connection);
            transactions(connection);
            autosave();
            copies(connection);
            metadata(connection);
            notified(connection);
        }
        limits();
        crowd();
        say("done");
    }
}
