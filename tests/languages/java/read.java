import java.nio.file.*;

public class Reader {
    public static void main(String[] args) throws Exception {
        System.out.print(Files.readString(Path.of("out.txt")));
    }
}
