import shop.Prices;

public class Main {
    public static void main(String[] args) {
        System.out.println(Prices.total(6, 7));
    }
}
