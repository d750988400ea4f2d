import java.util.Arrays;
import org.flywaydb.core.Flyway;
import org.flywaydb.database.postgresql.PostgreSQLConfigurationExtension;

/** Migrates as an application does at its start: URL, user, folder, then settings; the password is PGPASSWORD. */
public class Migrate {
    public static void main(String[] given) {
        var config = Flyway.configure()
            .dataSource(given[0], given[1], System.getenv("PGPASSWORD"))
            .locations("filesystem:" + given[2])
            .baselineOnMigrate(true)
            .baselineVersion("0");
        if (Arrays.asList(given).contains("flyway.postgresql.transactional.lock=false")) {
            config.getPluginRegister().getExact(PostgreSQLConfigurationExtension.class).setTransactionalLock(false);
        }
        System.out.println("executed " + config.load().migrate().migrationsExecuted);
    }
}
