mod shop;

fn main() {
    println!("{}", shop::prices::total(6, 7));
}
