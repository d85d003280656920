class Box {
    int x = 7;
}

class App {
    public static void main(String[] args) {
        System.out.println(new Box().x);
    }
}
