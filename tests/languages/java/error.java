public class Fails {
    public static void main(String[] args) throws Exception {
        throw new IllegalStateException("no");
    }
}
