import java.nio.file.*;

public class Maker {
    public static void main(String[] args) throws Exception {
        Files.writeString(Path.of("out.txt"), "made by java\n");
    }
}
