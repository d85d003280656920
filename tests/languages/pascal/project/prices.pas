unit prices;

interface

function total(count, price: integer): integer;

implementation

function total(count, price: integer): integer;
begin
  total := count * price;
end;

end.
