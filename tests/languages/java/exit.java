public class Exit {
    public static void main(String[] args) throws Exception {
        System.exit(3);
    }
}
