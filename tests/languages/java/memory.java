public class Memory {
    public static void main(String[] args) throws Exception {
        var kept = new java.util.ArrayList<byte[]>();
        while (true) kept.add(new byte[100_000]);
    }
}
